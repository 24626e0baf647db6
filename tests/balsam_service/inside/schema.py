"""Make the database and the tables of a Balsam server; the wheel lacks the migrations that would do it."""

import os

import psycopg2
from balsam.server.models import Base, get_engine
from sqlalchemy import text

INDEXES = [  # as the migrations would make them
    "ix_jobs_tags ON jobs USING gin (tags jsonb_path_ops)",
    "ix_job_parent_ids ON jobs USING gin (parent_ids)",
    "jobs_app_id_fkey_ix ON jobs (app_id)",
    "ix_log_events_job_id ON log_events (job_id)",
    "ix_transfer_items_job_id ON transfer_items (job_id)",
]

admin = psycopg2.connect(host=os.environ["PGHOST"], user="postgres", dbname="postgres")
admin.autocommit = True
admin.cursor().execute("CREATE DATABASE balsam")
admin.close()

jobs = Base.metadata.tables["jobs"]
for index in [index for index in jobs.indexes if index.name == "ix_jobs_tags"]:
    jobs.indexes.discard(index)  # create_all fails on it
engine = get_engine()
Base.metadata.create_all(engine)
with engine.begin() as connection:
    for index in INDEXES:
        connection.execute(text(f"CREATE INDEX {index}"))
