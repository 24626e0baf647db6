"""The real thing for tests: Postgres, the Balsam API server, sites with their agents, and a Slurm, all on loopback.

`fixtures.py` is what tests use. `run.py` and `sweep.py` see to it that nothing of it outlives the tests, whatever they
die of; `proxy.py` spoils answers as a real server cannot be made to. `inside/` runs in the server's own environment
(`.venv-balsam-server`, made by `make test`), where alone Balsam is imported.
"""
