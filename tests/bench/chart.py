"""The comparisons of a report as bars: median wall time of each contender, a group for each scenario.

SVG by hand: a few rectangles and labels, in colours that can be read on light and dark pages.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from tests.bench.report import MIB, Report

_WIDTH = 900
_LABELS = 250
_NUMBERS = 170
_ROW = 20
_GAP = 34
_OURS, _OTHERS, _FLOOR = "#1f6feb", "#8b949e", "#3fb950"


def chart(report: Report) -> str:
    y, rows = 8, []
    for comparison in report.comparisons:
        walls = {name: comparison.median(name, "wall_secs") for name in comparison.samples}
        longest = max(walls.values(), default=0) or 1
        y += 12
        rows.append(f'<text x="8" y="{y}" font-weight="bold">{escape(comparison.scenario)}</text>')
        y += 8
        for name, wall in walls.items():
            colour = _OURS if name.startswith("bootcd") else _FLOOR if name.startswith("floor") else _OTHERS
            length = (_WIDTH - _LABELS - _NUMBERS) * wall / longest
            wire = comparison.median(name, "wire_bytes") / MIB
            number = f"{wall:.2f} s" + (f", {wire:.1f} MiB" if wire else "")
            text = y + _ROW - 6
            rows += [
                f'<text x="{_LABELS - 8}" y="{text}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{_LABELS}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 6}" fill="{colour}"/>',
                f'<text x="{_LABELS + length + 6:.1f}" y="{text}">{number}</text>',
            ]
            y += _ROW
        y += _GAP - 20
    style = 'font-family="sans-serif" font-size="12" fill="#6e7781"'
    size = f'width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>', *rows, "</svg>", ""])
