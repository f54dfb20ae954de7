"""Write the study of any network, with and without focus losses: `python docs/draw_networks.py`.

Reads what the tuning chose for each fold (results/tuning/equal_tuning/table.csv, conf/profile/tuning.yaml), and the rates that
were tried since (results/networks/any_network/rates.csv), and writes conf/profile/networks.yaml. What and why: results/PROTOCOL.md.
"""

import sys
from pathlib import Path

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from draw_rows import FOLDS, flow
from draw_tuning import SETS
from stf_repro.model.networks import NETWORKS
from stf_repro.report.tables.tuning import chosen

ROOT = Path(__file__).parents[1]
RATES = (0.01, 0.02)
SEEDS = {"sbu": 2, "jhmdb": 4, "nwucla": 10}  # a fold, so 10, 12 and 10 trainings an arm
COMPARED = ("msg3d", "stgcn", "agcn", "ctrgcn", "dstanet", "paresgcn")
ARMS = ("plain", "losses")
HEAD = """# @package _global_
# Do focus losses help any network? Six, of about as many weights as MS-G3D, each plain and with L_e, L_d and L_c (results/PROTOCOL.md).
# Written by docs/draw_networks.py: the rates first, and the rows of a set when all its rates are known.
profile: networks
jobs: 2
base:
  networks: # within a fifth of MS-G3D's weights
    msg3d: {width: 18, num_gcn_scales: 3, num_g3d_scales: 2, windows: [3]}
    stgcn: {width: 8, dropout: 0.0}
    agcn: {width: 8}
    ctrgcn: {width: 12}
    dstanet: {width: 8}
    paresgcn: {width: 8}
  input: {frames: 20}
  optim: {recipe: adamw, batch_size: 16, epochs: 40, score_every: 100} # 100: after the last epoch only
"""
RESULTS = """results:
  any_network: {reads: [runs/networks/rates, runs/networks/rows, data/reference, data/reference]}"""


def recipe(plain: dict, stf: dict, arm: str) -> dict:
    "What an arm has beside its rate: from the two configurations that the tuning chose for the fold."
    optim = {"weight_decay": plain["optim"]["weight_decay"]}
    optim["label_smoothing"] = stf["optim"]["label_smoothing"]  # of both arms: a dose is relative to the cross-entropy
    dose, begins = stf["objective"]["relative_weights"]["exploration"], stf["objective"]["warmup"]
    terms = {name: dose for name in ("exploration", "divergence", "coherence")} if arm == "losses" else {}
    objective = {"warmup": begins, "relative_weights": terms} if terms else {}
    return {"optim": optim, "input": plain["input"]} | ({"objective": objective} if objective else {})


def of_folds(table: pd.DataFrame, tuning: dict) -> dict[str, tuple[str, dict, dict]]:  # fold -> set, MS-G3D's, STF's
    "The two configurations that the tuning chose for each fold."
    own = lambda row: tuning[f"{row.set}-{row.side}-{row.number:02d}"]
    sides = {(row.fold, row.side): own(row) for row in table.itertuples()}
    whole = [row for row in table.itertuples() if table[table.set == row.set].fold.nunique() == FOLDS[row.set]]
    return {row.fold: (row.set, sides[row.fold, "msg3d"], sides[row.fold, "stf"]) for row in whole}


def taken_rates(rates: pd.DataFrame | None) -> dict[tuple[str, str], int]:  # by fold and side, such as stgcn-plain
    "Which rate each arm takes, of the sets all of whose folds have all rates."
    if rates is None:
        return {}
    tried = rates.groupby(["set", "fold"]).apply(lambda own: len(set(zip(own.side, own.number))), include_groups=False)
    whole = tried[tried == len(COMPARED) * len(ARMS) * len(RATES)].groupby("set").size()
    done = rates[rates.set.isin([name for name, folds in whole.items() if folds == FOLDS[name]])]
    return {(row.fold, row.side): row.number for row in chosen(done).itertuples()} if len(done) else {}


def runs(folds: dict, rates: pd.DataFrame | None) -> list[str]:
    "The rates of every fold, then the rows of those sets whose rates are known."
    lines, rows, taken = [], [], taken_rates(rates)
    for network in COMPARED:
        title = NETWORKS[network].title
        for arm in ARMS:
            side = f"{network}-{arm}"
            for fold, (name, plain, stf) in folds.items():
                both = {"source": name, "network": network, "method": "plain"}
                rest = recipe(plain, stf, arm)
                at = lambda i: rest | {"optim": {"lr": RATES[i], **rest["optim"]}}
                for i in range(len(RATES)):
                    own = {"group": "rates", "protocol": f"{fold}-rates", "label": f"{side}-{i}"}
                    lines.append(f"  {fold}-{side}-{i}: {flow(both | own | at(i))}")
                if (fold, side) in taken:
                    label = title if arm == "plain" else f"{title} with losses"
                    own = {"group": "rows", "protocol": fold, "label": label}
                    rows.append(f"  {fold}-{side}: {flow(both | own | at(taken[fold, side]))}")
    return [*lines, *rows]


def profile(table: pd.DataFrame, tuning: dict, rates: pd.DataFrame | None = None) -> str:
    "The text of conf/profile/networks.yaml."
    folds = of_folds(table, tuning)
    sets = list(dict.fromkeys(name for name, _, _ in folds.values()))
    lines = [HEAD + f"sources: {{{', '.join(f'{name}: {{}}' for name in sets)}}}", "protocols:"]
    for fold, (name, _, _) in folds.items():
        tuned = SETS[name][0]  # the protocol of the tuning: what is held out, and its batches
        batch = {"optim": tuned["optim"]} if "optim" in tuned else {}
        held = {"benchmark": fold, "seeds": [0], "hold_out": tuned["hold_out"]}
        lines.append(f"  {fold}-rates: {flow(held | batch)}")
        lines.append(f"  {fold}: {flow({'benchmark': fold, 'seeds': list(range(SEEDS[name]))} | batch)}")
    return "\n".join([*lines, "runs:", *runs(folds, rates), "transfers: {}", RESULTS, ""])


def written() -> str:
    "What conf/profile/networks.yaml should hold, from what is committed."
    tuning = yaml.safe_load((ROOT / "conf" / "profile" / "tuning.yaml").read_text())["runs"]
    table = pd.read_csv(ROOT / "results" / "tuning" / "equal_tuning" / "table.csv")
    tried = ROOT / "results" / "networks" / "any_network" / "rates.csv"
    rates = pd.read_csv(tried) if tried.exists() else None
    return profile(table, tuning, rates)


if __name__ == "__main__":
    (ROOT / "conf" / "profile" / "networks.yaml").write_text(written())
