"""(d) Promptmill in one process."""

from __future__ import annotations

from tests.benchmarks.setting import begin

if __name__ == "__main__":
    setting = begin()
    from tests.benchmarks.variants.mill import run

    run(setting, in_process=True)
