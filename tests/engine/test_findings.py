"""Findings: labels that tell them apart, one selector, and intervals that say what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikiness.errors import SpikinessError
from spikiness.statistics import Interval
from spikiness_book.engine.runs import findings

TABLE = [
    findings.make("auroc", 0.9, labels={"kind": "unet:digits", "method": "paper", "sigma": 0.2}),
    findings.make("auroc", 0.8, labels={"kind": "unet:mnist", "method": "paper", "sigma": 0.2}),
    findings.make(
        "auroc", 0.7, labels={"kind": "unet:digits", "method": "FLIPD, one probe".replace(",", ""), "sigma": 1}
    ),
    findings.make("pairs", 3),
]


@pytest.mark.parametrize(
    ("selector", "context", "value"),
    [
        ("pairs", {}, 3),
        ("auroc[kind=unet:mnist]", {}, 0.8),
        (" auroc [ method = FLIPD one probe ] ", {}, 0.7),
        ("auroc[kind=unet:digits, sigma=0.20]", {}, 0.9),
        ("auroc[kind=unet:digits, sigma=1.0]", {}, 0.7),
        ("auroc[method=paper]", {"kind": "unet:digits"}, 0.9),
        ("auroc[sigma=1]", {"kind": "unet:digits", "words": "not a label"}, 0.7),
        ("auroc[kind=unet:mnist]", {"kind": "unet:digits"}, 0.8),  # what is written goes first
    ],
)
def test_a_selector_finds_the_one_it_names(selector, context, value):
    assert findings.select(TABLE, selector, context)["value"] == value


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ("auroc", "selects 3 metrics, one is needed"),
        ("auroc[method=paper]", r"selects 2 metrics.*kind=unet:digits.*kind=unet:mnist"),
        ("auroc[kind=unet:mnits]", "selects no metrics"),
        ("auroc[knid=unet:mnist]", "has no label 'knid'; did you mean 'kind'"),
        ("aurok", "no metric 'aurok'; did you mean 'auroc'"),
        ("pairs[kind=a]", "pairs has no label 'kind'"),
        ("auroc[kind]", "selects nothing: write name"),
        ("auroc[=a]", "selects nothing"),
        ("auroc[kind=a", "selects nothing"),
        ("", "selects nothing"),
    ],
)
def test_any_number_of_matches_but_one_is_an_error(selector, says):
    with pytest.raises(SpikinessError, match=says):
        findings.select(TABLE, selector)


TEXT = st.text(st.characters(exclude_characters="[]{},=", exclude_categories=("C", "Z")), min_size=1)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda k: k not in findings.FIELDS),
        TEXT | st.integers() | st.booleans(),
        max_size=4,
    )
)
def test_the_title_of_a_finding_selects_it(labels):
    others = [findings.make("x", 0, labels={**labels, key: f"{value}?"}) for key, value in labels.items()]
    one = findings.make("x", 1, labels=labels)
    assert findings.select([*others, one], findings.title(one))["value"] == 1


def test_intervals_say_of_what_level_and_over_what():
    assert (Interval(1, 2).level, Interval(1, 2, 0.9, "images").over) == (0.95, "images")
    low, high = Interval.range([3, 1, 2], "networks")
    assert (low, high, Interval.range([3, 1], "networks").level) == (1.0, 3.0, None)
    wide = findings.make("x", 2, Interval.range([3, 1], "networks"))
    assert (wide["level"], wide["over"], findings.kind_of_interval(wide)) == (None, "networks", "range")
    narrow = findings.make("x", 2, (1, 3), level=0.9, over="samples")
    assert findings.kind_of_interval(narrow) == "90 % interval"
    for bad in ((2, 1), (1, 2, 1.5), (1, 2, 0.0)):
        with pytest.raises(ValueError, match=r"interval|level"):
            Interval(*bad)


def test_the_table_shows_labels_and_kinds_of_intervals():
    shown = findings.table([findings.make("x", 2, Interval(1, 3, None, "networks"), labels={"kind": "a"}, n=5)])
    assert shown.to_dict("records") == [
        {"metric": "x", "of": "kind a", "value": "2", "interval": "[1, 3]", "is": "range over networks", "unit": "",
         "n": 5, "seeds": ""}
    ]  # fmt: skip
