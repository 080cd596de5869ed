"""The comparison of methods across task families in words, numbers and a picture."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from metaexp.evaluation.ranks import ALPHA, needed, scale_of, smallest_p
from metaexp.report.across import Across, compared
from metaexp.report.parts import Part, Table
from metaexp.report.reading import Run
from metaexp.report.tables import MOST_PAIRS, UNSHOWN, number, p_words

FORMS = {
    "plain": "Wilcoxon's signed-rank test of the differences of families, two-sided",
    "relative": "Wilcoxon's signed-rank test, two-sided, of (a - b) / (a + b) of errors a, b (1 - accuracy), which no "
    "unit changes",
    "signs": "sign test, two-sided: the scores of these families have no unit in common, nor are all of them errors",
}


def across_parts(
    runs: Sequence[Run],
    across: Sequence[str],
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    every_pair: bool = False,
) -> list[Part]:
    """The comparison over the values of the settings `across` (`task`, or `task,task.file`), as a part of the report.

    See `compared`; `every_pair` shows all pairs, however many there are.
    """
    found = compared(runs, across, by, metrics)
    name = ", ".join(across)
    title = f"{len(found.methods)} methods across {len(found.families)} families ({name}): ranks, 1 the best"
    tables = [_ranks_table(found), _scores_table(found, name)]
    verdict = claim(found)
    if found.pairs and found.pairs[0].p is not None:
        tables.append(_pairs_table(found, every_pair))
    some = not every_pair and len(found.pairs) > MOST_PAIRS and len(tables) > 2
    notes = [verdict, *(["only differences from the first; --pairs shows all"] if some else []), *found.notes]
    return [Part(title, tables, notes, _data(found, across, verdict), [("ranks.png", _picture(found, title, verdict))])]


def claim(found: Across) -> str:
    """What may be claimed with so many families, in one line."""
    count, pairs = len(found.families), len(found.pairs)
    families = f"{count} {'family' if count == 1 else 'families'}"
    if found.pairs and found.pairs[0].p is None:
        least = needed(pairs)
        bound = f"{ALPHA}" if pairs == 1 else f"{ALPHA} / {pairs} = {number(ALPHA / pairs, 3)} (Holm)"
        return (
            f"{families} are too few for a claim about {pairs} pair{'s' * (pairs > 1)}: their smallest p, "
            f"2^(1 - {count}) = {number(smallest_p(count), 3)}, is not below {bound}; {least} are needed"
        )
    form = scale_of(np.array([one.values for one in found.families]), [one.larger for one in found.families])
    return f"p: {FORMS[form]}; corrected for all {pairs} pairs (Holm 1979); {families} are the units"


def _better(found: Across) -> dict[int, list[int]]:
    """Place of a method -> places of those that it is shown to be better than."""
    made: dict[int, list[int]] = {}
    for pair in found.pairs:
        if pair.adjusted is not None and pair.adjusted < ALPHA:
            best, worst = (pair.one, pair.two) if pair.lead > 0 else (pair.two, pair.one)
            made.setdefault(best, []).append(worst)
    return made


def _ranks_table(found: Across) -> Table:
    better = _better(found)
    rows = []
    for place, method in enumerate(found.methods):
        ranks = found.ranks[:, place]
        seeds = [family.seeds[place] for family in found.families]
        few = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        beaten = _few([found.labels[other] for other in better.get(place, ())])
        ends = f"{number(ranks.min(), 3)} to {number(ranks.max(), 3)}"
        rows.append([*method, f"{ranks.mean():.2f}", ends, str(int((ranks == 1).sum())), few, beaten])
    head = [*found.keys, "average rank", "ranks", "first in", "seeds", "better than"]
    if not better:
        head, rows = head[:-1], [row[:-1] for row in rows]
    return Table(head, rows, len(found.keys))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _scores_table(found: Across, name: str) -> Table:
    rows, short = [], []
    for family, ranks in zip(found.families, found.ranks, strict=True):
        places = [number(rank, 3) for rank in ranks]
        scores = [number(value) if math.isfinite(value) else "not finite" for value in family.values]
        cells = [f"{score} ({place})" for score, place in zip(scores, places, strict=True)]
        rows.append([family.name, family.metric, *cells])
        short.append([family.name, family.metric, *places])
    head = [name, "metric", *found.labels]
    return Table(head, rows, 2, Table(head, short, 2))


def _pairs_table(found: Across, every: bool) -> Table:
    rows = []
    for pair in found.pairs:
        if not every and len(found.pairs) > MOST_PAIRS and pair.one != 0:
            continue
        one, two = found.labels[pair.one], found.labels[pair.two]
        shown = pair.adjusted is not None and pair.adjusted < ALPHA
        verdict = f"{one if pair.two in _better(found).get(pair.one, ()) else two} better" if shown else UNSHOWN
        rows.append(
            [
                f"{one} - {two}",
                f"{pair.better} of {len(found.families)}",
                p_words(pair.p),
                p_words(pair.adjusted),
                verdict,
            ]
        )
    return Table(["difference", "better in", "p alone", "p", ""], rows, 1)


def _data(found: Across, across: Sequence[str], verdict: str) -> dict[str, Any]:
    names = found.labels
    return {
        "across": list(across),
        "methods": [
            {"settings": dict(zip(found.keys, method, strict=True)), "average_rank": float(found.ranks[:, i].mean())}
            for i, method in enumerate(found.methods)
        ],
        "families": [
            {"family": family.name, "metric": family.metric, "larger_is_better": family.larger, "tests": family.tests,
             "means": [value if math.isfinite(value) else None for value in family.values], "seeds": family.seeds,
             "ranks": ranks.tolist()}
            for family, ranks in zip(found.families, found.ranks, strict=True)
        ],
        "differences": [
            {"one": names[pair.one], "two": names[pair.two], "better_in": pair.better, "worse_in": pair.worse,
             "p_alone": pair.p, "p": pair.adjusted}
            for pair in found.pairs
        ],
        "test": verdict,
        "notes": found.notes,
    }  # fmt: skip


def _picture(found: Across, title: str, verdict: str) -> bytes:
    from metaexp.plots.ranks import average_ranks  # matplotlib takes half a second to import
    from metaexp.plots.style import method_look
    from metaexp.report.pictures import as_drawn

    place = found.keys.index("algo") if "algo" in found.keys else None
    algos = [method[place] if place is not None else found.labels[i] for i, method in enumerate(found.methods)]
    alone = len(set(algos)) == len(algos)  # of two methods with one algorithm the colours would be the same
    names = [as_drawn(label) for label in found.labels]
    looks = {name: method_look(algo if alone else name) for name, algo in zip(names, algos, strict=True)}
    able = bool(found.pairs) and found.pairs[0].p is not None
    below = "at the right: shown to be better than the methods of these rows" if able and _better(found) else ""
    below = below or (
        f"no difference between {len(names)} methods is shown" if able else as_drawn(verdict.partition(":")[0])
    )
    figure = average_ranks(names, found.ranks, _better(found), as_drawn(title), below, looks)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
