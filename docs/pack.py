"""Write the networks and the example clip that ship with the package, from finished runs of the profiles `synthetic` and `people`.

`python docs/pack.py [NAME...]`, in the project; without names all. How they are chosen: nbs/reference/408_evaluation.bundled.ipynb.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from stf_repro.data.clip_store import ClipStore
from stf_repro.data.io import project_root, write_atomic, write_json
from stf_repro.data.registry import SOURCES
from stf_repro.data.samplers import Clips
from stf_repro.evaluation.bundled import FOLDER, SHIPPED
from stf_repro.evaluation.localisation import FORMS, clip_focus, clip_truth, lay_truth, load_run, measure
from stf_repro.evaluation.statistics import wilson
from stf_repro.model.contract import SkeletonNetwork
from stf_repro.training.artifacts import finished
from stf_repro.training.config import RunConfig, find_benchmark
from stf_repro.training.loop import predict


def _hits(network: SkeletonNetwork, clips: Clips, config: RunConfig) -> tuple[int, int]:
    "Test clips that a network names correctly, and all test clips."
    test = torch.as_tensor(find_benchmark(config).indices(clips.store, "test"))
    return int((predict(network, clips, test, config.input).argmax(1) == clips.labels.cpu()[test]).sum()), len(test)


def rounded(
    network: SkeletonNetwork,  # gets the rounded weights
    clips: Clips,  # with the test part of its benchmark
    config: RunConfig,
) -> tuple[dict[str, Tensor], int, int]:  # weights; test clips that they name correctly; all test clips
    "The weights with 16 bits per number if at most one test clip more or less is then correct, else with 32."
    exact = {name: value.clone() for name, value in network.state_dict().items()}
    before, _ = _hits(network, clips, config)
    for kind in (torch.float16, torch.float32):
        state = {name: value.to(kind) if value.is_floating_point() else value for name, value in exact.items()}
        if all(value.isfinite().all() for value in state.values()):  # a large number has no 16 bits
            network.load_state_dict(state)
            hits, total = _hits(network, clips, config)
            if abs(hits - before) <= 1:
                return state, hits, total
    raise ValueError("the network has weights that are NaN or infinite")


_WHAT = {
    ("msg3d", "plain"): "MS-G3D, trained on cross-entropy alone",
    ("msg3d", "M5"): "STF: MS-G3D with six STF modules, trained with all four loss terms",
    ("ctrgcn", "plain"): "CTR-GCN, narrow, trained on cross-entropy alone",
}
_USE = "To show and test the method on synthetic skeletons. It has never seen a real recording, knows fourteen synthetic actions, and is far smaller than the networks of the paper."
_USE_ON_PEOPLE = "To try the commands on recordings of people, and to start from on one's own. It knows only the actions and the camera of its data, is one training of one split, and is far smaller than the networks of the paper."
_NAMES = {"sbu": "SBU Kinect Interaction", "jhmdb": "JHMDB, as DD-Net prepared it", "nwucla": "Northwestern-UCLA"}


def _data(config: RunConfig, clips: Clips, raw: Path) -> dict:
    "What a network was trained on."
    source = SOURCES[config.source]
    if not source.files:
        return {"options": json.loads((raw / "config.json").read_text()), "real_recordings": "none"}
    train = len(find_benchmark(config).indices(clips.store, "train"))
    said = {"name": _NAMES[source.key], "page": source.page, "terms_of_the_recordings": source.terms}
    return said | {"real_recordings": f"{train}, none of them in this package"}


def _history(path: Path) -> dict[str, list[float | None]]:
    "The columns of history.tsv."
    head, *rows = (line.split("\t") for line in path.read_text().rstrip("\n").split("\n"))
    return {name: [float(row[i]) if row[i] else None for row in rows] for i, name in enumerate(head)}


def model_card(
    folder: Path,  # of a finished run
    record: dict,  # its record, from `finished`
    config: RunConfig,
    correct: int,  # test clips that the shipped weights name correctly
    total: int,  # test clips
    data: dict,  # what it was trained on
) -> dict:  # JSON
    "What a network is, how good, and where it comes from."
    return {
        "what": _WHAT[config.network.name, config.method],
        "intended_use": _USE_ON_PEOPLE if "page" in data else _USE,
        "licence": "Apache-2.0, as the code; the terms of the recordings remain"
        if "page" in data
        else "Apache-2.0, as the code",
        "data": {"source": config.source} | data,
        "accuracy": {
            "correct": correct,
            "clips": total,
            "top1_percent": round(100 * correct / total, 1),
            "interval_percent": [round(end, 1) for end in wilson(100 * correct / total, total)],  # 95 %, over clips
            "part": f"test part of {config.benchmark}",
        },
        "training": {"seed": config.seed} | {k: record[k] for k in ("commit", "date", "hardware", "versions")},
        "config": config.model_dump(mode="json"),
        "history": _history(folder / "history.tsv"),
    }


def choose_example(
    networks: dict[str, tuple[SkeletonNetwork, RunConfig]],
    clips: Clips,  # of the source
    raw: Path,  # folder of its recordings
    action: str = "kick",
) -> tuple[str, str]:  # name of the clip; how it was chosen
    "The typical test clip of an action on which both networks look at the right place early. Raises `ValueError` if there is none."
    config = next(iter(networks.values()))[1]
    benchmark = find_benchmark(config)
    of_action = [
        i
        for i in benchmark.indices(clips.store, "test").tolist()
        if clips.store.labels[i] == benchmark.classes.index(action)
    ]
    truth = lay_truth(clip_truth(raw, [clips.store.names[i] for i in of_action]), config.input, clips.bodies)
    fits, energy = torch.ones(len(of_action), dtype=torch.bool), torch.zeros(len(of_action))
    for network, own in networks.values():
        view = clip_focus(network, clips, torch.tensor(of_action), own.input, module="gcn1", form=FORMS["elementwise"])
        found, _ = measure(view.Q, truth, view.present)
        fits &= (view.said == benchmark.classes.index(action)) & (found["pointing"] > 0)
        energy += found["energy"] / len(networks)
    left = fits.nonzero().flatten()
    if not len(left):
        raise ValueError(
            f"no test clip of {action!r} fits: on none are both networks correct and their first focus on the truth"
        )
    at = left[energy[left].argsort()[len(left) // 2]]
    how = f"{len(of_action)} test clips show {action!r}. On {len(left)} of them both networks name the action correctly and the largest focus of their first module (element by element) lies on the truth. Of these {len(left)} this is the median, by the share of that focus inside the truth, mean of both networks."
    return clips.store.names[of_action[at]], how


def pack_example(
    networks: dict[str, tuple[SkeletonNetwork, RunConfig]],  # those that it is chosen by
    clips: Clips,
    raw: Path,  # folder of the recordings
) -> str:  # the name of the clip
    "Write the clip that ships with the package, and how it was chosen."
    name, how = choose_example(networks, clips, raw)
    (FOLDER / "example").mkdir(parents=True, exist_ok=True)
    for old in (FOLDER / "example").iterdir():
        old.unlink()
    line = next(line for line in (raw / "truth.jsonl").read_text().splitlines() if json.loads(line)["name"] == name)
    for file, content in (
        (f"{name}.skeleton", (raw / f"{name}.skeleton").read_bytes()),
        ("truth.jsonl", f"{line}\n".encode()),
        ("chosen.txt", f"{how}\n".encode()),
    ):
        write_atomic(FOLDER / "example" / file, content)
    return name


def pack(
    root: Path,  # the project, with finished runs of these networks, and the clips and recordings of their sources
    names: Sequence[str] = tuple(SHIPPED),
) -> str:  # one line
    "Write networks that ship with the package, and with MS-G3D and STF on synthetic clips the example. Raises `ValueError` for a name that is none, `FileNotFoundError` for a run that is not finished."
    if wrong := [name for name in names if name not in SHIPPED]:
        raise ValueError(f"no network {', '.join(wrong)} ships; these do: {', '.join(SHIPPED)}")
    networks, of, done = {}, {}, list(names)
    for name in names:
        folder = Path(root) / "runs" / SHIPPED[name] / "seed-0"
        net = load_run(folder)
        network, config = net.network, net.config
        raw, store = (Path(root) / kind / config.source for kind in ("raw", "clips"))
        clips = Clips(ClipStore.open(store), "cpu", net.benchmark.num_persons)
        state, correct, total = rounded(network, clips, config)
        networks[name], of[config.source] = (network, config), (clips, raw)
        data = _data(config, clips, raw)
        write_atomic(FOLDER / f"{name}.safetensors", save({key: value.contiguous() for key, value in state.items()}))
        write_json(FOLDER / f"{name}.json", model_card(folder, finished(folder), config, correct, total, data))
    pair = {name: networks[name] for name in ("synth60-msg3d", "synth60-stf") if name in networks}
    if len(pair) == 2:  # whom the book shows it to
        done.append(pack_example(pair, *of["synth60"]))
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    return f"{FOLDER}: wrote {', '.join(done)}; all {size // 1000} kB"


if __name__ == "__main__":
    print(pack(project_root(), sys.argv[1:] or tuple(SHIPPED)))
