"""What is compared: for each study its table, its trials, its baselines and what must be typed to train on it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tabling import floors, forecast, measures, movielens, recommend, table, trials
from tabling.floors import Score
from tabling.table import Numbers, Table
from tabling.trials import Cells, Trial

Ask = Callable[[Sequence[Trial]], list[np.ndarray]]  # trials -> predictions
# (numbers, validation trials of each cell) -> one after the other: name, and how it predicts in each cell
Baselines = Callable[[Numbers, Cells], Iterator[tuple[str, dict[str, Ask]]]]


class Measure(NamedTuple):
    """A number of each trial. Where `threshold` is set, it is balanced accuracy at a threshold chosen on validation."""

    score: Score
    larger: bool
    threshold: bool = False


class Study(NamedTuple):
    """A comparison on one table.

    Attributes:
        cells: (numbers, split) -> trials by name of the cell.
        measures: the first one chooses candidates and the best method, on validation tasks.
    """

    table: Table
    cells: Callable[[Numbers, str], Cells]
    baselines: Baselines
    measures: dict[str, Measure]


RMSE = {"rmse": Measure(measures.rmse, False)}
MAE = {"mae": Measure(measures.mae, False), "ndcg over rated items": Measure(measures.ndcg, True)}
MASE = {"mase": Measure(measures.mase, False), "mae": Measure(measures.mae, False)}
CLASSES = {
    "auc": Measure(measures.auc, True),
    "balanced accuracy": Measure(measures.auc, True, threshold=True),
    "log loss": Measure(measures.log_loss, False),
}


def fitted(kinds: dict[str, Any], first: Measure) -> Baselines:
    """The baselines of a dictionary, fitted once; in each cell the candidate that is best on its validation trials."""

    def baselines(numbers: Numbers, validation: Cells) -> Iterator[tuple[str, dict[str, Ask]]]:
        pool = numbers.pool()
        for name, options in kinds.items():
            made, found = [option(pool) for option in options], {}
            for cell, asked in validation.items():
                predict = floors.chosen(numbers, made, asked, first.score, first.larger)
                found[cell] = partial(floors.predictions, numbers, predict)
            yield name, found

    return baselines


def openml(kind: str) -> Callable[[dict[str, Path]], Study]:
    """Hyperparameter surfaces: 1, 5, 10 and 20 random settings known, all others asked for."""

    def make(places: dict[str, Path]) -> Study:
        def cells(n: Numbers, split: str) -> Cells:
            return trials.random_shots(n, split, (1, 5, 10, 20), repeats=5 if split == "test" else 3)

        return Study(table.openml(places["data"], kind), cells, fitted(floors.REGRESSION, RMSE["rmse"]), RMSE)

    return make


def radon(places: dict[str, Path]) -> Study:
    """Counties with 10 houses and more: 1, 2 and 5 random houses known, those after the fifth asked for."""

    def cells(n: Numbers, split: str) -> Cells:
        return trials.random_shots(n, split, (1, 2, 5), repeats=5 if split == "test" else 3)

    return Study(table.radon(places["data"]), cells, fitted(floors.REGRESSION, RMSE["rmse"]), RMSE)


def gapminder(places: dict[str, Path]) -> Study:
    """Countries: 1, 2 and 5 random years of 12 known; income and population of every year are given."""

    def cells(n: Numbers, split: str) -> Cells:
        return trials.random_shots(n, split, (1, 2, 5), repeats=5)

    return Study(table.gapminder(places["data"]), cells, fitted(floors.REGRESSION, RMSE["rmse"]), RMSE)


ORIGINS, HORIZON = (5, 6, 7, 8, 9), 3


def gapminder_forecast(places: dict[str, Path]) -> Study:
    """Countries: the first 5 to 9 of 12 years known, the next 3 asked for; nothing but the year is given."""
    kinds = forecast.FORECAST | {name: floors.REGRESSION[name] for name in floors.REGRESSION if "+" not in name}

    def cells(n: Numbers, split: str) -> Cells:
        return trials.rolling(n, split, ORIGINS, HORIZON)

    return Study(table.gapminder(places["data"], years_alone=True), cells, fitted(kinds, MASE["mase"]), MASE)


def movielens_cold_start(places: dict[str, Path]) -> Study:
    """Users with 30 ratings and more: the first 0 to 20 in time known, the last 10 asked for."""
    ratings = movielens.read(places["movielens"])
    split = movielens.divide(ratings)

    def cells(n: Numbers, name: str) -> Cells:
        return trials.cold_start(n, name, (0, 1, 2, 5, 10, 20))

    def baselines(n: Numbers, validation: Cells) -> Iterator[tuple[str, dict[str, Ask]]]:
        for name, (maker, settings) in recommend.RECOMMEND.items():
            made, found = [maker(ratings, split["train"], setting) for setting in settings], {}
            for cell, asked in validation.items():
                scores = [floors.mean_score(n, asked, recommend.predictions(p, asked), measures.mae) for p in made]
                found[cell] = partial(recommend.predictions, made[int(np.argmin(scores))])
            yield name, found
        plain = {name: floors.REGRESSION[name] for name in floors.REGRESSION if name.startswith("mixed")}
        yield from fitted({"pooled regression": floors.REGRESSION["pooled regression"], **plain}, MAE["mae"])(
            n, validation
        )

    return Study(movielens.table(ratings, split), cells, baselines, MAE)


def hospitals(places: dict[str, Path]) -> Study:
    """Hospitals with 16 patients and more, 4 of each outcome: 4 and 10 patients known, the others asked for."""

    def cells(n: Numbers, split: str) -> Cells:
        kept = trials.whole_tasks(n, split, least=4, each=16)
        few = n._replace(split=n.split | {split: kept})
        return trials.stratified(few, split, (4, 10), repeats=5)

    return Study(table.hospitals(places["medpar"]), cells, fitted(floors.CLASSIFICATION, CLASSES["log loss"]), CLASSES)


STUDIES: dict[str, Callable[[dict[str, Path]], Study]] = {
    "openml_random_forest": openml("random_forest"),
    "openml_adaboost": openml("adaboost"),
    "radon": radon,
    "gapminder": gapminder,
    "gapminder_forecast": gapminder_forecast,
    "movielens": movielens_cold_start,
    "hospitals": hospitals,
}
