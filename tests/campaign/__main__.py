"""``make campaign SEED=n RUNS=n``: seeded kills on the real product; a fault ends it, its seed replays."""

import argparse
import random
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.campaign.campaign import Campaign, schedule
from tests.campaign.kills import KINDS
from tests.product import running_product

LOGS = Path(__file__).resolve().parents[2] / "var" / "campaign"
"""Of products in which a fault was found, by seed."""


def main() -> int:
    """The status is 0 when no run found a fault."""
    parser = argparse.ArgumentParser(prog="make campaign")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of the first run; the next has one more"
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after these")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of kills, with commas between; all if not said")
    asked = parser.parse_args()
    console = Console(width=140, highlight=False)
    begun = time.monotonic()
    with running_product() as product:
        campaign, faults = Campaign(product), list[str]()
        for seed in range(asked.seed, asked.seed + asked.runs):
            if time.monotonic() > begun + asked.minutes * 60:
                break
            strikes = schedule(seed, asked.kinds.split(","))
            told = ", ".join(f"{strike.kind} after {strike.after_s} s" for strike in strikes)
            started = time.monotonic()
            faults = campaign.run(strikes)
            console.print(f"seed {seed}: {told} ({time.monotonic() - started:.0f} s)")
            if faults:
                console.print("\n".join(f"  ✗ {fault}" for fault in faults), style="red", markup=False)
                kept = shutil.copytree(product.var / "logs", LOGS / str(seed), dirs_exist_ok=True)
                console.print(f"logs: {kept}; replay with: make campaign SEED={seed} RUNS=1")
                break
        campaign.customers.leave()
        show(console, campaign, faults)
    return int(bool(faults))


def show(console: Console, campaign: Campaign, faults: list[str]) -> None:
    """The figures of the whole campaign."""
    book, record = campaign.customers.book, campaign.record
    lines = record.lines()
    if lines:
        table = Table(*lines[0], title="until it works again: median, worst", title_justify="left")
        for line in lines:
            table.add_row(*line.values())
        console.print(table)
    console.print(
        f"{record.runs} runs, {record.kills} processes killed; {len(book.answered):,} predictions acknowledged, "
        f"{len(book.files):,} files, {len(book.jobs):,} jobs; {'a fault' if faults else '0 lost, 0 doubled'}; "
        f"refused honestly: {dict(book.refused)}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
