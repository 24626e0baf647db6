"""The API server of Balsam 0.7.0a24, with one fault mended, for uvicorn.

A bulk update of jobs is one ``executemany`` with the columns of its first row: when a Python app and a command end
within the same second it is either HTTP 500, which ends the site's agent in the end, or return values are lost without
a word. Here rows are grouped by their columns. BALSAM_AS_SHIPPED=1 serves the original.
"""

import os

import balsam.server.models.crud.jobs as jobs
import balsam.server.models.crud.sessions as sessions
from balsam.server.main import app  # noqa: F401 (what uvicorn serves)

update_jobs = jobs.do_update_jobs


class Grouped:
    """A database session whose bulk updates go group by group."""

    def __init__(self, db):
        self.db = db

    def __getattr__(self, name):
        return getattr(self.db, name)

    def execute(self, statement, rows=None, *args, **kwargs):
        if not (isinstance(rows, list) and rows and getattr(statement, "is_update", False)):
            return self.db.execute(statement, *([] if rows is None else [rows]), *args, **kwargs)
        groups = {}
        for row in rows:
            groups.setdefault(tuple(sorted(row)), []).append(row)
        for group in groups.values():
            self.db.execute(statement, group, *args, **kwargs)
        return None


if not os.environ.get("BALSAM_AS_SHIPPED"):

    def grouped(db, *args, **kwargs):
        return update_jobs(Grouped(db), *args, **kwargs)

    jobs.do_update_jobs = sessions.do_update_jobs = grouped
