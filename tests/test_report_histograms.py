"""Histograms of the faces' measures, against numpy; and their axes."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.pipeline.report.axes import Axis, choose_axis
from facemill.pipeline.report.histograms import (
    FACE_SIZE,
    Histogram,
    Limit,
    limits_on,
    make_histograms,
    measured_columns,
)
from facemill.transforms.ops.tables import FACES_SCHEMA

NUM_FACES = 5000


@pytest.fixture(scope="module")
def faces() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        "kept": random.random(NUM_FACES) < 0.7,
        "x1": np.zeros(NUM_FACES),
        "y1": np.zeros(NUM_FACES),
        "x2": random.uniform(10, 900, NUM_FACES),
        "y2": random.uniform(10, 900, NUM_FACES),
        "score": 1 - 10 ** -random.uniform(0.5, 5, NUM_FACES),
        "yaw_deg": random.normal(0, 20, NUM_FACES),
        "sharpness": np.where(random.random(NUM_FACES) < 0.1, np.nan, random.gamma(2, 0.3, NUM_FACES)),
        "interocular_px": random.lognormal(3.5, 0.7, NUM_FACES),
        "eye_occlusion": np.full(NUM_FACES, np.inf),
    }


@pytest.fixture(scope="module")
def histograms(faces: dict[str, np.ndarray]) -> dict[str, Histogram]:
    connection = duckdb.connect()
    columns = {name: pa.array(values, None if name == "kept" else pa.float32()) for name, values in faces.items()}
    connection.register("faces", pa.table(columns))
    names = ["score", FACE_SIZE, "yaw_deg", "sharpness", "interocular_px", "eye_occlusion"]
    judge = {"max_yaw_deg": 21.0, "min_score": 0.0, "min_sharpness": 0.5, "keep": "all"}
    return {histogram.column: histogram for histogram in make_histograms(connection, names, judge)}


def test_columns_without_a_number_have_none(histograms: dict[str, Histogram]) -> None:
    assert list(histograms) == ["score", FACE_SIZE, "yaw_deg", "sharpness", "interocular_px"]


@pytest.mark.parametrize("column", ["score", FACE_SIZE, "yaw_deg", "sharpness", "interocular_px"])
def test_counts_and_quantiles_are_numpys(
    column: str, histograms: dict[str, Histogram], faces: dict[str, np.ndarray]
) -> None:
    histogram = histograms[column]
    values = np.maximum(faces["x2"], faces["y2"]) if column == FACE_SIZE else faces[column]
    values = values.astype(np.float32).astype(float)
    finite = np.isfinite(values)
    edges = histogram.axis.edges
    for counts, chosen in ((histogram.kept, faces["kept"]), (histogram.rejected, ~faces["kept"])):
        clipped = np.clip(values[finite & chosen], np.nextafter(edges[0], np.inf), edges[-1])
        np.testing.assert_array_equal(counts, np.histogram(clipped, edges)[0])
    assert histogram.kept.sum() + histogram.rejected.sum() == finite.sum()
    assert histogram.num_missing == (~finite).sum()
    assert histogram.range == (values[finite].min(), values[finite].max())
    for quantile, approximate in zip((0.05, 0.5, 0.95), histogram.quantiles, strict=True):
        assert abs((values[finite] <= approximate).mean() - quantile) < 0.01
    assert 8 <= histogram.axis.num_bins <= 40
    assert (counts[1:-1] > 0).mean() > 0.5, "the bins are where the values are"


def test_scales_fit_the_values(histograms: dict[str, Histogram]) -> None:
    scales = {column: histogram.axis.scale for column, histogram in histograms.items()}
    assert scales == {
        "score": "nines",
        FACE_SIZE: "octaves",
        "yaw_deg": "linear",
        "sharpness": "linear",
        "interocular_px": "octaves",
    }


def test_limits_are_those_of_the_column(histograms: dict[str, Histogram]) -> None:
    assert histograms["yaw_deg"].shown_limits == [Limit("max_yaw_deg", -21.0), Limit("max_yaw_deg", 21.0)]
    assert histograms["sharpness"].shown_limits == [Limit("min_sharpness", 0.5)]
    assert histograms["score"].limits == (Limit("min_score", 0.0),)
    assert histograms["score"].shown_limits == [], "at the end of the axis it is off"
    assert limits_on("keep", {"min_keep": "all"}) == ()


def test_a_bin_that_towers_above_all_others_is_cut(histograms: dict[str, Histogram]) -> None:
    values = {"kept": [True] * 110, "score": [0.5] * 100 + [0.4] * 6 + [0.3] * 4}
    connection = duckdb.connect()
    connection.register("faces", pa.table(values))
    (histogram,) = make_histograms(connection, ["score"], {})
    assert histogram.ceiling == 9
    assert histograms["yaw_deg"].ceiling == (histograms["yaw_deg"].kept + histograms["yaw_deg"].rejected).max()


def test_no_faces_have_no_histograms() -> None:
    connection = duckdb.connect()
    connection.register("faces", FACES_SCHEMA.empty_table())
    assert make_histograms(connection, measured_columns(FACES_SCHEMA), {}) == []


def test_every_measure_of_the_table_is_shown() -> None:
    columns = measured_columns(FACES_SCHEMA)
    assert columns[:2] == ["score", FACE_SIZE]
    assert {"yaw_deg", "interocular_px", "sharpness", "mouth_occlusion"} <= set(columns)
    assert not {"x1", "face_index", "kept", "label", "landmarks"} & set(columns)


@pytest.mark.parametrize(
    ("given_values", "unit", "scale", "ends", "labels"),
    [
        ((0, 0.1, 5, 9.9, 10), "", "linear", (0, 10), ["0", "2", "4", "6", "8", "10"]),
        ((-70, -60, 0, 60, 70), "", "linear", (-60, 60), ["-60", "-40", "-20", "0", "20", "40", "60"]),
        ((1, 16, 50, 1024, 1500), "px", "octaves", (16, 1024), ["16", "32", "64", "128", "256", "512", "1,024"]),
        ((0.7, 0.9, 0.999, 1.0, 1.0), "", "nines", (0.9, 0.999997), ["0.9", "0.99", "0.999", "0.9999", "0.99999"]),
        ((0.001, 0.002, 0.01, 3, 4), "", "octaves", None, None),
        ((5, 5, 5, 5, 5), "", "linear", (4.48, 5.52), ["4.6", "4.8", "5", "5.2", "5.4"]),
        ((1, 1, 2, 30, 30), "deg", "linear", (1, 30), ["5", "10", "15", "20", "25", "30"]),
        ((0, 0, 0, 1e-308, 0), "", "linear", (-0.1, 0.1), ["-0.1", "-0.05", "0", "0.05", "0.1"]),
        ((80, 80, 80, 80, 80), "px", "octaves", None, ["51.3", "128"]),
        ((1, 1, 1, 1, 1), "", "nines", None, None),
    ],
)
def test_axes(
    given_values: tuple[float, ...],
    unit: str,
    scale: str,
    ends: tuple[float, float] | None,
    labels: list[str] | None,
) -> None:
    least, low, median, high, most = given_values
    axis = choose_axis(least=least, low=low, median=median, high=high, most=most, unit=unit)
    assert axis.scale == scale
    assert (np.diff(axis.edges) > 0).all()
    if ends is not None:
        np.testing.assert_allclose(axis.edges[[0, -1]], ends, rtol=1e-5)
        assert [tick.label.replace("\N{MINUS SIGN}", "-") for tick in axis.ticks] == labels


def test_places_along_the_axis() -> None:
    octaves = Axis(2.0 ** np.arange(4, 11), "octaves")
    assert [octaves.place(value) for value in (1, 16, 128, 1024, 9999)] == pytest.approx([0, 0, 50, 100, 100])
    nines = Axis(1 - 10.0 ** -np.arange(5), "nines")
    assert [nines.place(value) for value in (0, 0.9, 0.99, 1.0)] == pytest.approx([0, 25, 50, 100])
    assert [nines.spell(value) for value in (0, 0.9, 0.99, 0.9999999, 1)] == ["0", "0.9", "0.99", "0.999999", "1"]


@given(st.lists(st.floats(-1e12, 1e12), min_size=5, max_size=5).map(sorted), st.sampled_from(["", "px", "deg"]))
def test_any_values_have_an_axis(values: list[float], unit: str) -> None:
    least, low, median, high, most = values
    axis = choose_axis(least=least, low=low, median=median, high=high, most=most, unit=unit)
    assert 1 <= axis.num_bins <= 45
    assert (np.diff(axis.edges) > 0).all() and np.isfinite(axis.edges).all()
    places = [tick.percent for tick in axis.ticks]
    assert places == sorted(places) and all(-1e-6 <= place <= 100 + 1e-6 for place in places)
