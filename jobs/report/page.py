"""The report as one HTML page: the verdict first, then pictures, then every figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from jobs.report.words import Verdict
from models.bootstrap import Interval
from models.report_facts import Facts, Gain, Row
from udfs.events import rfc3339

_SHOWN = 10  # winners, and losers
_METRICS = {
    "hit": ("Next item in the list", "HR@{k}: share of the lists that hold what came next"),
    "first": ("Next item in first place", "HR@1: share of the lists that begin with it"),
    "mrr": ("How far up it stands", "MRR@{k}: 1 in first place, ½ in second, 0 if not there"),
    "ndcg": ("The same, less steep", "NDCG@{k}: 1, 0.63, ½ for the first three places"),
    "later": ("Later items in the list", "recall@{k}: share of what the session still turned to"),
}
_PERCENT, _PLAIN = (100, "{:.1f} %"), (1, "{:.3f}")
_FORMS = {"hit": _PERCENT, "first": _PERCENT, "mrr": _PLAIN, "ndcg": _PLAIN, "later": _PERCENT}
_CAPTIONS = {
    "difference": "The differences with their 95 % intervals. Grey: may be chance.",
    "metrics": "What is to be high, with 95 % intervals.",
    "by_length": "Do the lists get better as the session goes on?",
    "by_period": "Over time, by the day of the event.",
    "overlap": "How alike the two lists for one event are.",
    "exposure": "Who gets the places: the dotted line would show every item equally often.",
}
_COLOUR = {"first": "#9a6700", "second": "#1a7f37", "mixed": "#9a6700", "none": "#57606a"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #24292f; max-width: 52rem;
       margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.2rem; font-weight: 600; color: #57606a; margin-bottom: .3rem }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem }
.verdict { border-left: 6px solid var(--mark); padding: .4rem 1.2rem; background: #f6f8fa }
.verdict p.headline { font-size: 1.5rem; line-height: 1.25; font-weight: 600; margin: .5rem 0 }
.note, figcaption, small { color: #57606a; font-size: .85rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td:not(:first-child) { white-space: nowrap }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #d0d7de; text-align: right;
         vertical-align: top }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #8c96a3; font-size: .85rem; overflow-wrap: anywhere }
small { display: block }
.up { color: #1a7f37 } .down { color: #cf222e }
figure { margin: 1.2rem 0 } figure svg { width: 100%; height: auto }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem;
        margin-bottom: 1.5rem }
@media (max-width: 44rem) { .pair { grid-template-columns: 1fr } }
"""


def page(
    facts: Facts, verdict: Verdict, plots: Mapping[str, str], titles: Mapping[str, str]
) -> str:
    """The whole page; the same figures give the same text."""
    names = [side.name for side in facts.sides]
    title = f"Replay of {names[0]}" if len(names) == 1 else f"{names[0]} or {names[1]}?"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _verdict(verdict),
        _of_what(facts),
        _figures(plots, ("difference", "metrics")),
        "<h2>The figures</h2>",
        _metrics(facts),
        "<h2>When are they good?</h2>",
        _figures(plots, ("by_length", "by_period")),
        "<h2>What is shown</h2>",
        _breadth(facts),
        _figures(plots, ("exposure",)),
    ]
    if len(facts.sides) == 2:
        parts += [
            "<h2>How alike the lists are</h2>",
            _figures(plots, ("overlap",)),
            _overlap(facts),
            "<h2>Who wins, who loses</h2>",
            _winners(facts, titles),
        ]
    parts += ["<h2>What a list costs</h2>", _cost(facts), _method(facts)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _verdict(verdict: Verdict) -> str:
    colour = _COLOUR.get(verdict.outcome, "#1f6feb")
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict.sentences)
    headline = f'<p class="headline">{escape(verdict.headline)}</p>'
    return f'<div class="verdict" style="--mark: {colour}">{headline}{sentences}</div>'


def _of_what(facts: Facts) -> str:
    first, last = (rfc3339(at)[:10] for at in facts.span)
    alone = "".join(
        f" {side.only_here:,} lists of {escape(side.name)} are left out: the other has none for "
        "those events."
        for side in facts.sides
        if side.only_here
    )
    return (
        f'<p class="note">Replayed: {facts.events:,} events of {facts.users:,} users in '
        f"{facts.sessions:,} sessions, {first} to {last}. {len(facts.sides[0].lists):,} of them "
        f"were answered with a list; after {facts.judged:,} of those the user turned to another "
        f"item, by which the list is judged.{alone}</p>"
    )


def _metrics(facts: Facts) -> str:
    size = facts.judging.size
    rows = [
        [
            _name(*(text.format(k=size) for text in texts)),
            *_cells(facts.metrics[name], *_FORMS[name]),
        ]
        for name, texts in _METRICS.items()
    ]
    return _table(["", *_sides(facts)], rows)


def _breadth(facts: Facts) -> str:
    rows: list[list[str]] = [
        [_name("Coverage", f"share of all {facts.items:,} items that are in some list")]
        + [f"{100 * facts.coverage(side):.1f} %" for side in facts.sides],
        [_name("Gini index", "0: all items shown alike, 1: always the same")]
        + [f"{side.gini:.3f}" for side in facts.sides],
    ]
    if len(facts.sides) == 2:
        first, second = facts.sides
        change = 100 * (facts.coverage(second) - facts.coverage(first))
        rows[0].append(_signed(f"{change:+.1f}"))
        rows[1].append(_signed(f"{second.gini - first.gini:+.3f}"))
    bias = _name("Popularity bias", "of 1,000 interactions, how many an item that is shown has")
    rows.append([bias, *_cells(facts.popularity, 1, "{:.2f}", plain=True)])
    return _table(["", *_sides(facts)], rows)


def _overlap(facts: Facts) -> str:
    rows = [[escape(name), _interval(each, 1, "{:.3f}")] for name, each in facts.overlap.items()]
    return _table(["of two lists for the same event", "mean (95 %)"], rows)


def _winners(facts: Facts, titles: Mapping[str, str]) -> str:
    first, second = (escape(side.name) for side in facts.sides)
    counts = Counter(
        (gain.after > gain.before) - (gain.after < gain.before) for gain in facts.users_won
    )
    users = max(len(facts.users_won), 1)
    told = (
        f"<p>With {second} {100 * counts[1] / users:.1f} % of {users:,} users find what they turn "
        f"to next more often, {100 * counts[-1] / users:.1f} % less often, the others as often.</p>"
    )
    half = _SHOWN
    more = [(item, *pair) for item, *pair in facts.shown_more if pair[1] > pair[0]][:half]
    less = [(item, *pair) for item, *pair in facts.shown_more[::-1] if pair[1] < pair[0]][:half]
    return "".join(
        [
            told,
            _pair("Items found more often", "… and less often", facts.items_won, titles),
            _pair("Users who gain", "… and who lose", facts.users_won, {}),
            f'<div class="pair"><div>{_shown("Shown more", more, titles)}</div>'
            f"<div>{_shown('Shown less', less, titles)}</div></div>",
            f'<p class="note">With {first} → with {second}: hits, of how often the item came next '
            "or how many lists of the user are judged; lists that show the item. These are "
            "examples: what happens to a single item or user is mostly chance.</p>",
        ]
    )


def _pair(won: str, lost: str, gains: Sequence[Gain], titles: Mapping[str, str]) -> str:
    more = [gain for gain in gains if gain.after > gain.before][:_SHOWN]
    less = [gain for gain in gains[::-1] if gain.after < gain.before][:_SHOWN]
    tables = (_gains(won, more, titles), _gains(lost, less, titles))
    return f'<div class="pair"><div>{tables[0]}</div><div>{tables[1]}</div></div>'


def _gains(head: str, gains: Iterable[Gain], titles: Mapping[str, str]) -> str:
    rows = [
        [_item(gain.owner, titles), f"{gain.before} → {gain.after}<small>of {gain.lists}</small>"]
        for gain in gains
    ]
    return _table([head, "hits"], rows or [["none", ""]])


def _shown(head: str, rows: Iterable[Sequence], titles: Mapping[str, str]) -> str:
    cells = [[_item(item, titles), f"{own:,} → {other:,}"] for item, own, other in rows]
    return _table([head, "lists"], cells or [["none", ""]])


def _cost(facts: Facts) -> str:
    rows = [
        [label, *(f"{side.took_us(share):,.0f} µs" for side in facts.sides)]
        for label, share in (("half of the lists, at most", 0.5), ("95 of 100, at most", 0.95))
    ]
    answered = [Counter(side.lists.served_by) for side in facts.sides]
    kinds = sorted({kind for count in answered for kind in count})
    rows += [
        [f"answered by: {escape(kind)}", *(f"{count[kind]:,}" for count in answered)]
        for kind in kinds
    ]
    versions = [", ".join(sorted({*side.lists.versions})) for side in facts.sides]
    rows.append(["bundles", *map(escape, versions)])
    note = "Computing alone, on this machine, as an average over the batch a list was in."
    head = ["", *(escape(side.name) for side in facts.sides)]
    return _table(head, rows) + f'<p class="note">{note}</p>'


def _method(facts: Facts) -> str:
    judging = facts.judging
    counted = "also items that were" if judging.repeats else "only items that were not"
    return (
        f'<p class="note">What came next: the first later event of the session with an item; '
        f"{counted} in the session before count. A session ends after {judging.gap_ms // 1000:,} s "
        f"of silence. Items of equal score count against a list. Intervals: bootstrap over "
        f"sessions, {judging.resamples:,} resamples, {100 * judging.confidence:g} %, seed "
        f"{judging.seed}; differences are paired by event. RBO has p = 0.9.</p>"
    )


def _sides(facts: Facts) -> list[str]:
    names = [escape(side.name) for side in facts.sides]
    return [*names, "difference"] if len(names) == 2 else names


def _cells(row: Row, factor: float, form: str, plain: bool = False) -> list[str]:
    """Mean and interval of each side, and the difference, coloured if it is sure."""
    cells = [_interval(each, factor, form) for each in row.sides]
    if row.difference is not None:
        signed = form.replace(":", ":+")
        sure = row.difference.is_sure and not plain
        kind = ("up" if row.difference.mean > 0 else "down") if sure else ""
        told = _signed(_interval(row.difference, factor, signed))
        cells.append(f'<span class="{kind}">{told}</span>' if kind else told)
    return cells


def _interval(each: Interval, factor: float, form: str) -> str:
    mean, low, high = (form.format(factor * value) for value in each)
    return f"{mean}<small>{low} to {high}</small>"


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _name(label: str, meaning: str) -> str:
    return f"{escape(label)}<small>{escape(meaning)}</small>"


def _item(item: str, titles: Mapping[str, str]) -> str:
    title = titles.get(item)
    return f"{escape(title)}<small>{escape(item)}</small>" if title else escape(item)


def _figures(plots: Mapping[str, str], names: Iterable[str]) -> str:
    return "".join(
        f"<figure>{plots[name]}<figcaption>{escape(_CAPTIONS[name])}</figcaption></figure>"
        for name in names
        if name in plots
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    headers = "".join(f"<th>{each}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{headers}</tr></thead><tbody>{body}</tbody></table>"
