"""Looks at a report in a real browser: `make browser-check`, or `python -m tests.browser.check [REPORT.html]`.

At 1280 and 390 pixels, light and dark: no error on the console, nothing loaded from elsewhere, no scrolling sideways,
words in pictures that can be read. Without a page it makes one of runs written by hand.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from lipcert.reporting.report import write_report
from tests.browser.chromium import Tab, chromium
from tests.reporting.examples import write_measured, write_run

WIDTHS, THEMES = (1280, 390), ("light", "dark")

SMALLEST_LETTERS = 8.0
"""Pixels of a letter's height in pictures."""

LEAST_CONTRAST = 4.5
"""Of words to what is behind them (WCAG 2, level AA)."""

LETTERS = """
Math.min(...[...document.querySelectorAll('svg text')].filter(text => text.getClientRects().length).map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a))
"""

CONTRAST = """
(() => {
  const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
  const ground = element => { for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$|transparent/.test(colour)) return colour; } return 'rgb(255,255,255)'; };
  let worst = [99, ''];
  const words = 'h1,h2,h4,p,li,a,td,th,dt,dd,small,figcaption,code,summary,span,svg text';
  for (const element of document.querySelectorAll(words)) {
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element), inside = element.closest('svg');
    const colour = inside ? style.fill : style.color;
    if (!/^rgb/.test(colour)) continue;
    const [one, other] = [light(colour), light(ground(inside ? inside.parentElement : element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.tagName + ': ' + element.textContent.trim().slice(0, 40)];
  }
  return worst;
})()
"""

OVERFLOW = """
[...document.querySelectorAll('body *')].filter(element => element.getBoundingClientRect().right > innerWidth + 1
  && !element.closest('.scroll, pre, svg')).map(element => element.tagName + '.' + element.className).slice(0, 5)
"""


def faults(tab: Tab) -> list[str]:
    """Return a sentence for everything that is wrong with the page that is open."""
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    found = [_said(event) for event in tab.events if _is_fault(event)]
    width = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    if width[0] > width[1]:
        found.append(f"the page is {width[0]} pixels wide in a window of {width[1]}: {tab.evaluate(OVERFLOW)}")
    letters = tab.evaluate(LETTERS)
    if letters is not None and letters < SMALLEST_LETTERS:
        found.append(f"letters in pictures are {letters:.1f} pixels high")
    contrast, where = tab.evaluate(CONTRAST)
    if contrast < LEAST_CONTRAST:
        found.append(f"the contrast is {contrast:.2f} at {where}")
    return found


def _is_fault(event: dict[str, Any]) -> bool:
    method, content = event.get("method"), event.get("params", {})
    if method == "Network.requestWillBeSent":
        return not str(content["request"]["url"]).startswith(("file:", "data:"))
    if method == "Runtime.consoleAPICalled":
        return content["type"] in ("error", "warning", "assert")
    return method in ("Runtime.exceptionThrown", "Network.loadingFailed") or (
        method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning")
    )


def _said(event: dict[str, Any]) -> str:
    return f"{event['method']}: {str(event['params'])[:300]}"


def example(folder: Path) -> Path:
    """Return the page of runs written by hand: measured ones, one that is not, one that is damaged."""
    for seed in range(3):
        write_measured(write_run(folder / f"local_seed{seed}", seed=seed, certified_accuracy=0.7 + 0.01 * seed))
    write_run(folder / "a_run_with_a_name_that_is_so_long_that_no_phone_has_room_for_it_on_one_line", bound="tight")
    (write_run(folder / "damaged", bound="global") / "results.json").write_text("{")
    write_report([folder], folder / "report", themes="none")
    return folder / "report" / "report.html"


def main() -> None:
    """Print what was looked at; exit code 1 for any fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.check", description=__doc__)
    parser.add_argument("page", type=Path, nargs="?", help="report.html; one is made when left out")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the whole page")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder, chromium() as tab:
        page = (options.page or example(Path(folder))).resolve()
        for width in WIDTHS:
            for theme in THEMES:
                tab.open(page.as_uri(), width, theme)
                found = faults(tab)
                failed |= bool(found)
                sys.stdout.write(f"{width} pixels, {theme}: {'; '.join(found) or 'nothing wrong'}\n")
                if options.pictures:
                    options.pictures.mkdir(parents=True, exist_ok=True)
                    (options.pictures / f"{page.parent.name}_{width}_{theme}.png").write_bytes(tab.picture())
    sys.exit(failed)


if __name__ == "__main__":
    main()
