"""Rules for every test run: a skipped test is visible, and with CI=true it is an error."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line("")
        reporter.write_line(f"ERROR: {len(skipped)} skipped; with CI=true every test has to run.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
