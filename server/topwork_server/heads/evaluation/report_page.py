"""The report as one HTML page without scripts, to be opened, sent and printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from topwork_server.heads.evaluation import report_plots

#: Metrics that are errors: lower is better, and each group has a scale of its own.
ERRORS = (("calibration error",), ("log loss",), ("mae", "rmse"))
#: The least end of their scales, so that a small error looks small.
LEAST = {"calibration error": 0.2, "log loss": 0.7}
#: Characters of a class name beside a table, and above it, where the text is rotated.
BESIDE, ABOVE = 40, 24
#: The baseline, where it is not the majority class.
BASELINES = {"regression": "the mean", "question-answering": "an answer of the first tokens"}
STYLE = """
:root{--ink:#1d2329;--soft:#66707a;--line:#d9dee3;--paper:#fff;--tint:#f5f7f9;--main:#1f6f54;--warm:#b4632a;--wash:31,111,84}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#98a2ac;--line:#343c44;--paper:#14181c;--tint:#1c2227;
--main:#5fc29b;--warm:#e09a63;--wash:95,194,155}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:920px}
body{margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2.2rem 0 .6rem}p{margin:.3rem 0}
.soft{color:var(--soft)}.big{font-size:2.6rem;font-weight:600;color:var(--main);line-height:1.1;margin-top:1rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.18rem .7rem .18rem 0;text-align:right}
th{font-weight:500;color:var(--soft);border-bottom:1px solid var(--line)}td:first-child,th:first-child{text-align:left}
.pair{display:flex;flex-wrap:wrap;gap:1.5rem}.pair div{max-width:340px}
.warn{border-left:3px solid var(--warm);padding-left:.7rem;margin:.5rem 0}
.grid{stroke:var(--line)}.tick,.axis{font-size:11px;fill:var(--soft)}.line{fill:none;stroke:var(--main);stroke-width:2}
.before{fill:none;stroke:var(--warm);stroke-width:1.5}.dashed{fill:none;stroke:var(--soft);stroke-dasharray:4 3}
.count{font-size:9px;fill:var(--ink)}.dot{fill:var(--main)}.dot.before{fill:var(--warm)}.faint{fill-opacity:.45}.band{fill:var(--main);fill-opacity:.14}
.range{stroke:var(--main);stroke-width:3}.mark{stroke:var(--warm);stroke-width:2}
.confusion{display:block;overflow-x:auto}
.confusion td{padding:0 .3rem;min-width:2.1rem;height:1.7rem;text-align:center;border:1px solid var(--paper)}
.confusion th{border:0;padding:0 .5rem;text-align:right;white-space:nowrap}
.confusion thead th{writing-mode:vertical-rl;transform:rotate(180deg);padding:.3rem 0;text-align:left}
.wrong{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:.8rem}
.wrong div{background:var(--tint);border-radius:6px;padding:.6rem;overflow-wrap:anywhere;font-size:13px}
.wrong img{max-width:100%;max-height:112px;display:block;margin-bottom:.3rem}
@media print{body{margin:0}h2{break-after:avoid}}
"""


def render_page(report: Mapping[str, Any]) -> str:
    """Render a Report, given as JSON. Everything that came from a user is escaped."""
    sections = [_head(report), _warnings(report), _figures(report), _plots(report), _help(report), _classes(report)]
    sections += [_confusion(report), _wrong(report), _trials(report), _history(report), _facts(report)]
    title = escape(f"{report['head']}: {report['task']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(filter(None, sections))}</body></html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    target = report["target"] or "classes by their descriptions"
    said = f"{report['task']} of {target}, {report['kind']} head on {_read(report)}"
    top = f'<h1>{escape(report["head"])}</h1><p class="soft">{escape(said)}</p>'
    if not report["metrics"]:
        return f"{top}<p>{escape(report['estimate'])}</p>"
    main = report["metrics"][0]
    base, of = _by_name(report["baseline"]).get(main["name"]), (main["value"], main["low"], main["high"])
    unknowing = BASELINES.get(report["task"], "the majority class")
    beside = f", where {unknowing} has {_number(base['value'], *of)}" if base else ""
    value, low, high = (_number(number, *of) for number in of)
    return (
        f'{top}<p class="big">{value}</p><p>{escape(main["name"])}, 95% interval {low} to {high}{escape(beside)}</p>'
        f'<p class="soft">{escape(report["estimate"])}. The head that is served has learnt from {report["labelled"]:,} labelled'
        " items; no figure on this page is of an item that its head has learnt from.</p>"
    )


def _read(report: Mapping[str, Any]) -> str:
    """Name what the head reads: "pooled of resnet50-thin"."""
    if not report["encoder"]:
        return f"ready vectors of the set {report['set']}"
    pooling = f" ({report['pooling']})" if report["pooling"] not in ("row", "rows") else ""
    return f"{report['tap']}{pooling} of {report['encoder']}"


def _warnings(report: Mapping[str, Any]) -> str:
    return "".join(f'<p class="warn">{escape(warning)}</p>' for warning in report["warnings"])


def _figures(report: Mapping[str, Any]) -> str:
    base = _by_name(report["baseline"])
    rows = [_figure(metric, base.get(metric["name"]), _reach(metric["name"], report)) for metric in report["metrics"]]
    head = "<tr><th></th><th>value</th><th>95% interval</th><th>baseline</th><th>scale</th></tr>"
    said = "Dot: the value; thick line: its interval; upright mark: the baseline. Of losses and errors less is better."
    return f'<h2>Figures</h2><table>{head}{"".join(rows)}</table><p class="soft">{said}</p>' if rows else ""


def _reach(name: str, report: Mapping[str, Any]) -> float:
    """Find the end of the scale of an error, the same for those of one unit; 0 for shares, which end at 1."""
    kin = next((names for names in ERRORS if name.lower().startswith(names)), ())
    found = [one for one in report["metrics"] if kin and one["name"].lower().startswith(kin)]
    ends = [one["high"] for one in found] + [one["value"] for one in report["baseline"] if one["name"].lower().startswith(kin)]
    return max(ends, default=0.0) and max(LEAST.get(kin[0], 0.0), *ends) if kin else 0.0


def _figure(metric: Mapping[str, Any], base: Mapping[str, Any] | None, reach: float) -> str:
    ends = (0.0, reach) if reach else (_floor(min(metric["low"], base["value"] if base else 0.0)), 1.0)
    bar = report_plots.interval(metric["value"], metric["low"], metric["high"], ends, base["value"] if base else None)
    of = metric["value"], metric["low"], metric["high"]
    value, low, high = (_number(number, *of) for number in of)
    cells = [escape(metric["name"]), value, f"{low} to {high}", _number(base["value"], *of) if base else "", bar]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _floor(lowest: float) -> float:
    """Find the start of the scale of a share: 0, or a round number below."""
    return max(-1.0, math.floor(lowest * 10) / 10) if lowest < -0.02 else 0.0


def _number(value: float, *beside: float) -> str:
    """Format with three decimals, or four digits where the value and those `beside` it are all very large or very small."""
    largest = max(map(abs, (value, *beside)))
    return f"{value:z.3f}" if not largest or 1e-3 <= largest < 1e5 else f"{value:.4g}"


def _plots(report: Mapping[str, Any]) -> str:
    drawn = []
    if len(report["curve"]) > 1:
        drawn.append(("With more labels", _curve(report), _of_curve(report)))
    if report["calibration_before"]:
        bins = [
            [(b["confidence"], b["accuracy"], b["count"]) for b in report[f"calibration_{when}"]] for when in ("before", "after")
        ]
        said = f"orange: as trained; green: at temperature {report['temperature']:.2f}, as served; numbers: how many predictions"
        drawn.append(("Is it as sure as it should be?", report_plots.reliability(*bins), said))
    if report["scatter"]:
        said = f"the band, {report['interval']:.3g} to each side, held 90% of held-out items"
        drawn.append(("Truth and prediction", report_plots.scatter(report["scatter"], report["interval"]), said))
    figures = (f'<div><h2>{title}</h2>{plot}<p class="soft">{escape(said)}</p></div>' for title, plot, said in drawn)
    return f'<div class="pair">{"".join(figures)}</div>' if drawn else ""


def _of_curve(report: Mapping[str, Any]) -> str:
    """Explain the curve, and why its end differs from the headline, where it does."""
    said = "band: the 95% interval; dashed: the baseline"
    last, main = report["curve"][-1]["figure"]["value"], report["metrics"][0]["value"]
    if not report.get("curve_estimate"):
        return said
    return (
        f"{said}. Judged on {report['curve_estimate']}: it ends at {_number(last)}, where all items together give {_number(main)}"
    )


def _curve(report: Mapping[str, Any]) -> str:
    points, main = report["curve"], report["metrics"][0]["name"]
    base = _by_name(report["baseline"]).get(main)
    figures = [(p["figure"]["value"], p["figure"]["low"], p["figure"]["high"]) for p in points]
    return report_plots.curve([p["items"] for p in points], figures, main, base["value"] if base else None)


def _help(report: Mapping[str, Any]) -> str:
    helped = report["help"]
    if not helped:
        return ""
    gain = helped["gain"]
    if not helped["items"]:
        return f"<h2>Unlabelled items</h2><p>None of them was used by {escape(helped['method'])}.</p>"
    verdict = "helped" if gain["low"] > 0 else "did harm" if gain["high"] < 0 else "made no difference that can be measured"
    return (
        f"<h2>Unlabelled items</h2><p>{helped['items']:,} of them, by {escape(helped['method'])}, {verdict}:"
        f" {escape(gain['name'])} {helped['without']['value']:.3f} without, {helped['with_them']['value']:.3f} with them"
        f" (difference {gain['value']:+.3f}, {gain['low']:+.3f} to {gain['high']:+.3f}).</p>"
    )


def _classes(report: Mapping[str, Any]) -> str:
    rows = [_class(one) for one in report["classes"]]
    return f"<h2>Each class</h2>{_table(('', 'items', 'precision', 'recall', 'F1'), rows)}" if rows else ""


def _class(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Format a class; one that was never evaluated has dashes."""
    parts = (f"{one[part]:.3f}" if one["support"] else "-" for part in ("precision", "recall", "f1"))
    return (one["name"], f"{one['support']:,}", *parts)


def _confusion(report: Mapping[str, Any]) -> str:
    confusion = report["confusion"]
    if not confusion:
        return ""
    names = confusion["names"]
    head = "".join(_title(name, ABOVE) for name in names)
    rows = "".join(f"<tr>{_title(name, BESIDE)}{_shaded(row)}</tr>" for name, row in zip(names, confusion["counts"], strict=True))
    return (
        '<h2>What is taken for what</h2><p class="soft">A row for each true class, a column for each prediction.</p>'
        f'<table class="confusion"><thead><tr><th></th>{head}</tr></thead>{rows}</table>'
    )


def _title(name: str, longest: int) -> str:
    """A header cell with a shortened name, in full under the pointer."""
    said = name if len(name) <= longest else f"{name[: longest - 3]}..."
    return f'<th title="{escape(name)}">{escape(said)}</th>'


def _shaded(row: Sequence[int]) -> str:
    whole = sum(row) or 1
    return "".join(f'<td style="background:rgba(var(--wash),{0.85 * n / whole:.2f})">{f"{n:,}" if n else ""}</td>' for n in row)


def _wrong(report: Mapping[str, Any]) -> str:
    cards = "".join(_card(wrong, report["task"]) for wrong in report["wrong"])
    title = "Largest errors" if report["task"] == "regression" else "Most confidently wrong"
    return f'<h2>{title}</h2><div class="wrong">{cards}</div>' if cards else ""


def _card(wrong: Mapping[str, Any], task: str) -> str:
    shown = wrong["shown"]
    picture = f'<img src="{escape(shown)}" alt="">' if shown.startswith("data:image/jpeg;base64,") else escape(shown)
    sure = f"off by {wrong['confidence']:.3g}" if task == "regression" else f"{100 * wrong['confidence']:.0f}% sure"
    said = f"<b>{escape(wrong['predicted'])}</b>, {sure}<br>truly <b>{escape(wrong['truth'])}</b>"
    return f'<div>{picture}<p>{said}</p><p class="soft">{escape(wrong["id"])}</p></div>'


def _trials(report: Mapping[str, Any]) -> str:
    best = sorted(report["trials"], key=lambda trial: -trial["score"])[:12]
    rows = [(t["tap"], t["pooling"], _settings(t["settings"]), f"{t['score']:.4f}") for t in best]
    more = f" The best 12 of {len(report['trials'])}." if len(report["trials"]) > 12 else ""
    said = f'<p class="soft">Scores: {escape(report["measure"])}, on rows that were not learnt from.{more}</p>'
    return f"<h2>What was tried</h2>{said}{_table(('tap', 'pooling', 'settings', 'score'), rows)}" if rows else ""


def _history(report: Mapping[str, Any]) -> str:
    entries = report["history"]
    if not entries:
        return ""
    names = list(entries[0])
    rows = [[f"{entry[name]:.4g}" if isinstance(entry[name], float) else str(entry[name]) for name in names] for entry in entries]
    return f"<h2>Epoch by epoch</h2>{_table(names, rows)}"


def _facts(report: Mapping[str, Any]) -> str:
    rows = [
        ("learnt from", f"version {report['version']} of {report['set']}, column {report['target']}"),
        ("items", f"{report['labelled']:,} labelled, {report['unlabelled']:,} without a label, {report['items']:,} judged"),
        ("reads", _read(report) + (f", fingerprint {report['fingerprint']}" if report["fingerprint"] else "")),
        ("chosen", _settings(report["chosen"] or {})),
        ("options", _settings(report["options"] or {}) or "as they come"),
        ("seed", str(report["seed"])),
        ("trained", f"in {report['seconds']:.1f} s by Topwork {report['code']}"),
    ]
    lines = "".join(
        f'<tr><td class="soft">{name}</td><td style="text-align:left">{escape(said)}</td></tr>' for name, said in rows
    )
    return f"<h2>How it was made</h2><table>{lines}</table>"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items())


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _by_name(figures: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {figure["name"]: figure for figure in figures}
