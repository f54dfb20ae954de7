"Published figures of the networks, the rows of Table 2 that they are, and what a network costs."

import pandas as pd
import pytest
import torch

from stf_repro.bench.networks import kept_bytes, multiply_adds
from stf_repro.model.networks import NETWORKS
from stf_repro.report.tables.formatting import read_published
from stf_repro.report.tables.comparison import comparison_published, rows_here
from stf_repro.report.tables.arms import Arm, pairs

CELL = ["dataset", "protocol", "modality"]


@pytest.fixture(scope="module")
def tables(root):
    return {name: read_published(root, name) for name in ("networks", "table2_rows", "table2_sota")}


def test_every_network_with_a_paper_has_figures_and_every_figure_a_source(tables):
    found = tables["networks"]
    assert set(found.network) == {name for name, network in NETWORKS.items() if network.paper}
    xsub = found[(found.variant == "") & (found.dataset == "NTU60") & (found.protocol == "xsub")]
    assert set(xsub.network) == set(found.network)  # what the picture of nbs/benchmarks/networks.ipynb shows
    assert (found["source"] != "").all() and (found["where"] != "").all()
    words = {"readme", "maintainer", "listing"}
    assert set(found.source) <= words | set(tables["table2_sota"].source)
    assert found[found.source == "maintainer"]["where"].str.match(r"[\w-]+/[\w-]+#\d+$").all()
    assert not found.duplicated(["network", "variant", *CELL]).any()
    assert set(found.modality) == {"J", "B", "fused"}
    assert found.top1.astype(float).between(30, 100).all()
    assert found[found.dataset != "Kinetics"].frames.str.isdigit().all()


def test_figures_that_stand_in_table_2_are_those_of_table_2(tables):
    found, about = tables["networks"], tables["table2_rows"].set_index("method").network
    printed = tables["table2_sota"].replace({"modality": {"J+B": "fused"}}).set_index(["method", *CELL])
    for row in found[found.table2_method != ""].itertuples():
        there = printed.loc[(row.table2_method, row.dataset, row.protocol, row.modality)]
        assert float(there.top1) == float(row.top1), row
        assert about[row.table2_method] == row.network
    named = found.set_index(["table2_method", *CELL]).index
    known = printed[printed.top1 != ""].index
    here = set(about[about != ""].index) - {"STF", "AdaSGN"}
    missing = [cell for cell in known if cell[0] in here and cell not in named]
    assert missing == []


def test_every_method_of_table_2_is_here_or_says_why_not(tables):
    about = tables["table2_rows"]
    assert list(about.method) == list(comparison_published(tables["table2_sota"]).method)
    assert set(about.here) <= {"yes", "part", "no"} and (about.why != "").all()
    assert all((row.network in NETWORKS) == (row.here != "no") for row in about.itertuples())
    assert set(about.network) - {""} <= set(NETWORKS)


def test_the_page_says_which_rows_were_run(tables):
    about = tables["table2_rows"]
    run = lambda made: set(rows_here(about, made).query("`in these results` == 'run'").published)
    assert run([]) == set() and run(pairs("msg3d")) == {"MS-G3D (paper)", "MS-G3D (code)", "STF"}
    assert run([Arm("agcn"), Arm("sgn")]) == {"2s-AGCN"}  # a part of AdaSGN is not AdaSGN
    here = rows_here(about, []).set_index("published").here
    assert here["AdaSGN"].startswith("in part") and here["SR-TSL"] == "none"


def by_hand_stgcn(T: int, V: int = 25, K: int = 3, classes: int = 60) -> int:
    "Multiply-adds of ST-GCN for one body: a 1x1 convolution to K times the channels, K matrices, nine frames, a shortcut."
    total, before = 0, 3
    for i, after in enumerate([64] * 4 + [128] * 3 + [256] * 3):
        total += T * V * before * K * after + T * V * K * V * after
        halved = i in (4, 7)
        T = -(-T // 2) if halved else T
        total += T * V * 9 * after**2 + (T * V * before * after if halved else 0)
        before = after
    return total


def test_multiply_adds_are_those_of_a_hand_count():
    assert multiply_adds("stgcn", 300) == pytest.approx(2 * by_hand_stgcn(300) + 256 * 60, rel=0.01)
    one = multiply_adds("stgcn", 300, bodies=1)
    assert one == pytest.approx(by_hand_stgcn(300) + 256 * 60, rel=0.01)
    conv = lambda channels, frames: 5 * channels * 48 * frames
    by_hand = 2 * (conv(150, 300) + conv(48, 150) + conv(48, 75)) + 48 * 60
    assert multiply_adds("convolution", 300) == pytest.approx(by_hand, rel=0.01)
    with pytest.raises(KeyError):
        multiply_adds("nothing", 300)


def test_memory_that_is_shared_counts_once_and_weights_do_not():
    model = torch.nn.Linear(6, 6, bias=False)
    x = torch.randn(4, 6)
    assert kept_bytes(lambda: model(x), model) == 4 * 4 * 6  # x, for the weights
    twice = lambda: model(x) * model(x[:2]).sum()  # x once more, as a part of itself; both factors
    assert kept_bytes(twice, model) == 4 * (4 * 6 + 4 * 6 + 1)


def test_the_measured_page_holds_every_network(root):
    folder = root / "nbs" / "benchmarks" / "measured" / "networks"
    timed = pd.read_csv(folder / "times.csv").set_index("network")
    assert list(timed.index) == list(NETWORKS) and (timed > 0).all(axis=None)
    assert (timed.loc["msg3d", ["step_ratio", "score_ratio"]] == 1).all()
    ways = pd.read_csv(folder / "convolutions.csv")
    assert (ways.groupby("what")["size"].nunique() == 2).all() and (ways.ratio > 0).all()
