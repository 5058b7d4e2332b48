"""Reports: one self-contained HTML page made of recorded JSON, never of a model."""

from headstart.errors import extra

with extra("report"):
    from headstart.report.bench_page import bench_page
    from headstart.report.page import demo_page, run_page
    from headstart.report.records import load_run

__all__ = ["bench_page", "demo_page", "load_run", "run_page"]
