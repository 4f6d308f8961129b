"""Whether a worker and a recorder grow: their memory after each of ten campaigns.

.venv/bin/python -m benchmarks.growth [--mails 100000] [--concurrency 10]
"""

import argparse
import time

from benchmarks.bench import bench

PATIENCE_SECONDS = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=10)
    options = parser.parse_args()
    print("   mails   seconds   worker MB   recorder MB   (the most so far)")
    with bench() as setup, setup.sink() as sink:
        started = time.monotonic()
        worker, recorder = setup.start("ours", options.concurrency)
        for tenth in range(1, 11):
            # Redis of the test bed doesn't hold all of them at a time.
            setup.produce("ours", setup.campaign(options.mails // 10))
            goal = options.mails // 10 * tenth
            while sink.ask("report")["mails"] < goal:
                if time.monotonic() - started > PATIENCE_SECONDS:
                    raise RuntimeError(f"not {goal} mails within {PATIENCE_SECONDS:.0f} s")
                time.sleep(0.2)
            print(
                f"{goal:8} {time.monotonic() - started:9.0f}   {worker.rss_mb:9.1f}   {recorder.rss_mb:11.1f}"
                f"   ({worker.peak_rss_mb:.1f}, {recorder.peak_rss_mb:.1f})",
                flush=True,
            )
        for process in (worker, recorder):
            process.stop()


if __name__ == "__main__":
    main()
