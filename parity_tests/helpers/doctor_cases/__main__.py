"""Print the doctor's answer to each variant: `python -m parity_tests.helpers.doctor_cases [NUMBER ...]`.

The exit status is 1 if an answer is wrong, or if a model takes more than `SECONDS` of computation.
"""

import sys
from collections import Counter

from parity_tests.helpers.doctor_cases.case import DTYPES, answer
from parity_tests.helpers.doctor_cases.variants import HEALTHY, VARIANTS

SECONDS = 20.0


def main(chosen):
    """Print a row for each variant and dtype, then the sums; returns the exit status."""
    counts, slowest = Counter(), 0.0
    print("number  line  dtype     found        seconds  expected; found")
    for number, each in enumerate((*VARIANTS, *HEALTHY), 1):
        if chosen and number not in chosen:
            continue
        for dtype in DTYPES:
            kind, verdict, seconds = answer(each, dtype)
            counts[dtype, "healthy" if each.line == 0 else "faulty", kind] += 1
            slowest = max(slowest, seconds)
            wanted = f"{each.place}: {each.words}" if each.line else "equal"
            print(
                f"{number:6}  {each.line:4}  {dtype:8}  {kind:11}  {seconds:7.2f}  {wanted}; {verdict}",
                flush=True,
            )
    for (dtype, of, kind), count in sorted(counts.items()):
        print(f"{dtype}, {of} ports: {count} {kind}")
    print(f"slowest: {slowest:.1f} s")
    return int(slowest > SECONDS or any(kind == "wrong" for *_, kind in counts))


if __name__ == "__main__":
    sys.exit(main({int(each) for each in sys.argv[1:]}))
