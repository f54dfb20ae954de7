"""Write the rows of the second protocol, with the configurations that its tuning chose: `python docs/draw_rows.py`.

Reads results/tuning/equal_tuning/table.csv and conf/profile/tuning.yaml, writes conf/profile/second.yaml. A row is one run for each
fold, since each fold has its own recipe (results/PROTOCOL.md).
"""

from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
SEEDS = {"sbu": 3, "jhmdb": 5, "nwucla": 10}
FOLDS = {"sbu": 5, "jhmdb": 3, "nwucla": 1}  # a set takes part when all its folds are tuned
HEAD = """# @package _global_
# The rows of the second protocol (results/PROTOCOL.md), each fold with the recipe that the tuning chose for it. Written by docs/draw_rows.py.
profile: second
jobs: 2
base:
  network: msg3d
  networks: {msg3d: {width: 12, num_gcn_scales: 3, num_g3d_scales: 2, windows: [3]}, convolution: {width: 12}}
  input: {frames: 20}
  optim: {recipe: adamw, batch_size: 16, score_every: 100} # 100: after the last epoch only
"""
FULL = {"exploration": 1.0, "divergence": 1.0, "adjacency": 1.0, "coherence": 1.0}  # the poster's dose
PRINTED = {"method": "M5", "objective": {"warmup": 0.3, "relative_weights": FULL}, "choices": {"stf_gate": "open"}}
EPOCHS = 80  # of STF as printed, at least: with 20 and 40 it had not converged in the tuning
MOTION = {"modality": "joint+joint-motion"}
# Few clips and widths, on JHMDB: both sides in one recipe, so that they differ in the method alone
SIDES, THREE = ("msg3d-recipe", "stf"), [0, 1, 2]  # rows, and their seeds
SHARES = {10: 12, 20: 6, 25: 4}  # percent -> times as many epochs; with 1, 2 and 3 batches an epoch, as many steps
WIDTHS, WIDE_FOLD = (24, 48), "jhmdb-1"  # beside the width of every other row


def terms(stf: dict, *names: str) -> dict:
    "The chosen objective of STF with some of its terms."
    weights = stf["objective"]["relative_weights"]
    return {"objective": stf["objective"] | {"relative_weights": {name: weights[name] for name in names}}}


def rows(
    plain: dict, stf: dict
) -> dict[str, dict | None]:  # name of the row -> what is its own; None: it is another row
    "The rows of one fold, from the two configurations that were chosen for it."
    recipe = {"optim": plain["optim"], "input": plain["input"]}
    longer = recipe | {"optim": plain["optim"] | {"epochs": max(plain["optim"]["epochs"], EPOCHS)}}
    own = {"optim": stf["optim"], "input": stf["input"]}
    read = {name: stf[name] for name in ("objective", "reading", "choices")}
    free = {"reading": stf["reading"]}  # of a network without STF modules
    base, full = recipe | {"method": "plain", "label": "M1"}, own | read | {"method": "M5", "label": "M5"}
    on = lambda row, **changed: row | {"input": row["input"] | changed}
    plain_terms = ("exploration", "divergence")
    return {
        "msg3d": base,
        "stf": full,
        "msg3d-recipe": own | {"method": "plain", "label": "MS-G3D, STF's recipe"},
        "poster": longer | PRINTED | {"label": "STF as printed", "reading": "poster-input"},
        "msg3d-long": longer | {"method": "plain", "label": "MS-G3D, long"}
        if longer != recipe
        else None,  # else it is the tuned one
        "masks": own
        | free
        | terms(stf, "exploration")
        | {"method": "M2", "label": "random masks", "choices": {"mask_gradient": "shuffled"}},
        "M2": own | free | terms(stf, "exploration") | {"method": "M2", "label": "M2"},
        "lineage": longer | PRINTED | {"label": "STF, lineage", "reading": "lineage"},
        "msg3d-bone": on(base, modality="bone"),
        "stf-bone": on(full, modality="bone"),
        "M3": own | free | terms(stf, *plain_terms) | {"method": "M3", "label": "M3"},
        "M4": own | read | terms(stf, *plain_terms, "adjacency") | {"method": "M4", "label": "M4"},
        "msg3d-motion": on(base, **MOTION),
        "convolution": base | {"network": "convolution", "label": "convolution"},
        "convolution-motion": on(base, **MOTION) | {"network": "convolution", "label": "convolution"},
        "msg3d-75": base | {"percent": 75},
    }


def few(row: dict, percent: int) -> dict:
    "A row with a share of the training clips, and as many steps whatever the share."
    optim = row["optim"] | {"epochs": SHARES[percent] * row["optim"]["epochs"]}
    return row | {"optim": optim, "percent": percent, "seeds": THREE}


def wide(row: dict, width: int) -> dict:
    "A row in another width, with the recipe that was chosen for this one."
    label = f"{'STF' if row['method'] == 'M5' else 'MS-G3D'}, width {width}"
    return row | {"network": {"name": "msg3d", "width": width}, "label": label, "seeds": THREE}


def profile() -> str:
    "The text of conf/profile/second.yaml."
    tuning = yaml.safe_load((ROOT / "conf" / "profile" / "tuning.yaml").read_text())["runs"]
    chosen = pd.read_csv(ROOT / "results" / "tuning" / "equal_tuning" / "table.csv")
    number = {(r.fold, r.side): r.number for r in chosen.itertuples()}
    folds = {name: list(dict.fromkeys(chosen[chosen.set == name].fold)) for name in SEEDS}
    own = lambda name, fold, side: tuning[f"{name}-{side}-{number[fold, side]:02d}"]
    sets = {name: of_set for name, of_set in folds.items() if len(of_set) == FOLDS[name]}
    lines = [HEAD + f"sources: {{{', '.join(f'{name}: {{}}' for name in sets)}}}", "protocols:"]
    for name, of_set in sets.items():
        seeds = list(range(SEEDS[name]))
        batch = {} if name == "sbu" else {"optim": {"batch_size": 32}}  # one body a clip
        lines += [f"  {fold}: {flow({'benchmark': fold, 'seeds': seeds} | batch)}" for fold in of_set]
    lines += ["runs:"]
    found = {fold: rows(own(name, fold, "msg3d"), own(name, fold, "stf")) for name, f in sets.items() for fold in f}
    source = {fold: name for name, of_set in sets.items() for fold in of_set}
    for row in next(iter(found.values())):  # row by row, as the protocol orders them
        for fold, of_fold in found.items():
            if of_fold[row] is None:
                continue
            place = {"group": "rows", "source": source[fold], "protocol": fold}
            lines.append(f"  {fold}-{row}: {flow(place | of_fold[row])}")
    for fold, of_fold in found.items():
        if "turn" in of_fold["msg3d"]["input"]:
            base = of_fold["msg3d"]
            other = base | {
                "label": "turned the other way",
                "input": base["input"] | {"turn": 17 - base["input"]["turn"]},
            }
            place = {"group": "controls", "source": source[fold], "protocol": fold}
            lines.append(f"  {fold}-turned: {flow(place | other)}")
    sides = {fold: {side: of_fold[side] for side in SIDES} for fold, of_fold in found.items()}
    for share in SHARES:
        for fold in folds["jhmdb"]:
            place = {"group": "few", "source": "jhmdb", "protocol": fold}
            lines += [f"  {fold}-{side}-{share}: {flow(place | few(row, share))}" for side, row in sides[fold].items()]
    for width in WIDTHS:
        place = {"group": "size", "source": "jhmdb", "protocol": WIDE_FOLD}
        own = sides[WIDE_FOLD].items()
        lines += [f"  {WIDE_FOLD}-{side}-width-{width}: {flow(place | wide(row, width))}" for side, row in own]
    return "\n".join([*lines, "transfers: {}", RESULTS, ""])


RESULTS = """results:
  does_it_help: {reads: [runs/second/rows, runs/second/controls, runs/second/few, runs/second/size]}
  hidden: {reads: [runs/second/rows, data/reference, data/reference, data/reference]}"""


def flow(value: object) -> str:
    "A value as YAML on one line."
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()


if __name__ == "__main__":
    (ROOT / "conf" / "profile" / "second.yaml").write_text(profile())
