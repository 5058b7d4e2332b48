"""Reports: one self-contained HTML page made of recorded JSON, never of a model."""

from headstart.errors import extra

with extra("report"):
    from headstart.report.bench_page import bench_page, device_note
    from headstart.report.demo_page import demo_page
    from headstart.report.inspect_page import inspect_page, save_figures
    from headstart.report.reading import load_run
    from headstart.report.run_page import run_page

__all__ = ["bench_page", "demo_page", "device_note", "inspect_page", "load_run", "run_page", "save_figures"]
