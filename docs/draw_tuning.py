"""Draw the configurations of the second protocol's tuning, and write conf/profile/tuning.yaml: `python docs/draw_tuning.py`.

Twelve for each set, the same for MS-G3D and STF in what both have (results/PROTOCOL.md). Drawn once, from a fixed seed, before any is trained.
"""

import json
from pathlib import Path

import numpy as np

SEED, NUMBER = 20261201, 12
SETS = {  # protocol, and what only this set has
    "sbu": (
        {"benchmark": [f"sbu-{i}" for i in range(1, 6)], "hold_out": "pair", "seeds": [0]},
        {"turn": [0, 17]},
    ),
    "jhmdb": (
        {
            "benchmark": [f"jhmdb-{i}" for i in range(1, 4)],
            "hold_out": "clip",
            "seeds": [0],
            "optim": {"batch_size": 32},
        },
        {},
    ),
    "nwucla": ({"benchmark": "nwucla", "hold_out": "camera", "seeds": [0], "optim": {"batch_size": 32}}, {}),
}
READINGS = ("poster-input", "lineage", "early")
SAMPLER = {"sbu": "uniform", "jhmdb": "resample", "nwucla": "resample"}  # of the first study's search
HEAD = """# @package _global_
# The tuning of the second protocol: as many random configurations of MS-G3D as of STF, scored on clips held out of training.
# What and why: results/PROTOCOL.md. Written by docs/draw_tuning.py, before any of it was trained.
profile: tuning
jobs: 2
base:
  network: msg3d
  networks: {msg3d: {width: 12, num_gcn_scales: 3, num_g3d_scales: 2, windows: [3]}}
  input: {frames: 20}
  objective: {warmup: 0.3}
  optim: {recipe: adamw, batch_size: 16, score_every: 100} # 100: after the last epoch only
"""

RESULTS = """results:
  equal_tuning: {reads: [runs/tuning/tuning, data/reference, data/reference, data/reference]}"""


def draw(rng: np.random.Generator, own: dict) -> tuple[dict, dict, dict]:  # optim, input, what is STF's
    "One configuration."
    log = lambda low, high: float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.2g}")
    optim = {"lr": log(0.003, 0.03), "weight_decay": log(0.001, 0.1), "epochs": int(rng.choice([20, 40, 80]))}
    optim["label_smoothing"] = float(rng.choice([0.0, 0.1]))
    turn = {name: int(rng.choice(values)) for name, values in own.items()}
    dose = float(rng.choice([0.1, 0.3, 1.0]))
    weights = {"exploration": dose, "divergence": dose, "adjacency": 1.0, "coherence": dose}
    stf = {
        "objective": {"warmup": float(rng.choice([0.1, 0.3, 0.5])), "relative_weights": weights},
        "reading": str(rng.choice(READINGS)),
        "choices": {"stf_gate": str(rng.choice(["open", "half", "closed"]))},
    }
    return optim, turn, stf


def dealt(drawn: list[tuple[dict, dict, dict]]) -> None:
    "Deal the readings so that each meets short and long trainings alike. SBU had been trained before this was thought of."
    rng, order = np.random.default_rng(SEED), sorted(range(len(drawn)), key=lambda i: drawn[i][0]["epochs"])
    for start in range(0, len(order), len(READINGS)):
        for i, reading in zip(order[start : start + len(READINGS)], rng.permutation(READINGS)):
            drawn[i][2]["reading"] = str(reading)


def flow(value: object) -> str:
    "A value as YAML on one line."
    return json.dumps(value).replace('"', "")


def profile() -> str:
    "The text of conf/profile/tuning.yaml."
    rng, lines = np.random.default_rng(SEED), [HEAD + "sources: {sbu: {}, jhmdb: {}, nwucla: {}}", "protocols:"]
    lines += [f"  {name}: {flow(protocol)}" for name, (protocol, _) in SETS.items()]
    lines += ["runs:"]
    for name, (_, own) in SETS.items():
        drawn = [draw(rng, own) for _ in range(NUMBER)]
        if name != "sbu":
            dealt(drawn)
        for i, (optim, turn, stf) in enumerate(drawn):
            both = {"group": "tuning", "source": name, "protocol": name}
            more = {"optim": optim, "input": {"recipe": SAMPLER[name], **turn}}
            lines.append(
                f"  {name}-msg3d-{i:02d}: {flow(both | {'method': 'plain', 'label': f'msg3d-{i:02d}'} | more)}"
            )
            lines.append(f"  {name}-stf-{i:02d}: {flow(both | {'method': 'M5', 'label': f'stf-{i:02d}'} | more | stf)}")
    return "\n".join([*lines, "transfers: {}", RESULTS, ""])


if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("conf", "profile", "tuning.yaml").write_text(profile())
