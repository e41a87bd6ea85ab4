from __future__ import annotations

from xml.etree import ElementTree as ET

from tests.bench.chart import chart
from tests.bench.measure import Sample
from tests.bench.report import Comparison, Report

SVG = "{http://www.w3.org/2000/svg}"


def test_chart_has_a_bar_for_each_contender_as_long_as_it_took() -> None:
    comparison = Comparison("pull of <an image>", "peer")
    comparison.add("peer", Sample(4.0, 1.0, wire_bytes=3 << 20))
    comparison.add("bootcd: whole job", Sample(1.0, 1.0))
    root = ET.fromstring(chart(Report("ext4", [comparison])))
    peer, ours = (float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect"))
    assert peer == 4 * ours
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[0] == "pull of <an image>"
    assert "4.00 s, 3.0 MiB" in texts
    assert "1.00 s" in texts
