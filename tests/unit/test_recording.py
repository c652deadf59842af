"""The recording of the demonstration: one that a player of asciicasts can play, and the picture that is made of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from demo.recording import COLUMNS, DOCS, END, paced, read_cast, to_cast, to_svg


def test_the_recording_can_be_played_and_the_picture_shows_it() -> None:
    recorded = (DOCS / "demo.cast").read_text()
    head, *events = map(json.loads, recorded.splitlines())
    assert (head["version"], head["width"]) == (2, COLUMNS)
    times = [seconds for seconds, kind, text in events if kind == "o" and text.endswith("\r\n")]
    assert times == sorted(times)
    assert len(times) == len(events) > 100
    lines = read_cast(recorded)
    assert to_cast(lines).splitlines()[1:] == recorded.splitlines()[1:]
    assert to_svg(lines) == (DOCS / "demo.svg").read_text(), "run: python -m demo.recording --draw"
    assert "Nothing is left of it on this machine." in recorded
    assert "Traceback" not in recorded


def test_colours_and_signs_of_a_terminal_are_those_of_the_picture() -> None:
    lines = paced("\x1b[1;36m== A <b> & c\x1b[0m\r\n$ true\r\nplain\r\n")
    assert [line.seconds for line in lines] == [0.5, 2.0, 3.5]
    drawn = to_svg(lines)
    assert '<tspan class="b c">== A &lt;b&gt; &amp; c</tspan>' in drawn
    assert f"animation: up {3.5 + END:.1f}s" in drawn
    root = ElementTree.fromstring(drawn)
    assert [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")][1:] == ["$ true", "plain"]
