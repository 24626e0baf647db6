"""What a new site's files say."""

from __future__ import annotations

SETTINGS_TEMPLATE = """\
# Settings of this balsam-jupyter site; read when an allocation or a kernel opens the site.
# Remove the '#' in front of a line to change it; what is shown is the value detected or chosen by default.

# Virtual nodes of this machine that allocations share.
# nodes: 1

# Cores and GPUs of one node (default: what this machine has, divided by the nodes).
# cores_per_node: {cores}
# gpus_per_node: {gpus}

# Jobs at most on one node, for those that do not say (Balsam: 1; 0: as many as its cores allow).
# node_packing_count: 0

# One job at a time on a node, whatever the jobs say (old Balsam).
# exclusive_nodes: false

# Which jobs run first: large_first (more nodes, then longer wall time), small_first (fewer nodes, then more to a node,
# then longer wall time) or long_large_first (longer wall time, then more nodes).
# sort_by: large_first

# The command that starts MPI programs (default: the first of mpiexec, mpirun, srun that is found).
# mpi_launcher: {mpi}

# In job mode serial every node has a worker, which starts the node's tasks. How it is started: a shell command
# (Jinja2), with the variables node (0, 1, …) and worker, the worker's own command; or all by one MPI launch.
# worker_launch: "{{{{ worker }}}}"
# serial_via_mpi: false

# A launcher that has had nothing to run for so long (seconds) ends its allocation.
# idle_time_s: 600

# Between SIGTERM and SIGKILL (seconds), when an allocation ends with tasks still running.
# grace_period_s: 10

# Others take over from a launcher that is stopped (SIGSTOP, a debugger) for so long (seconds).
# stopped_after_s: 30

# Node-hours that all allocations of this site may use together; what could take more is refused (default: no limit).
# max_node_hours: 100

# Write stderr to job.err instead of into job.out.
# split_stderr: false

# Directories that tasks' files may come from and go to ("transfers"): a job says NAME:/path below one.
# transfer_locations: {{NAME: /some/directory}}
"""

JOB_TEMPLATE = """\
#!/bin/bash
# Template (Jinja2) of the script that is one allocation of this site; rendered to qsubmit/qlaunch{ID}.sh.
# Put here what every task needs (module load …, export …). The variables: batch_job_id, project, queue,
# num_nodes, wall_time_min, job_mode, optional_params, launcher.
# allocation {{ batch_job_id }}: {{ num_nodes }} node(s) for {{ wall_time_min }} min, job mode {{ job_mode }}

# A launcher that died by a signal is started again while wall time is left, after 0.2 s, 0.4 s … 2 s;
# one that ends by itself (idle, wall time over, revoked) ends the allocation.
stop() { stopped=1; kill -TERM "$pid" 2>/dev/null; }
trap stop TERM INT
stopped=0; pause=2
while [ "$stopped" = 0 ]; do
    began=$SECONDS
    {{ launcher }} &
    pid=$!
    wait "$pid"; code=$?
    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done
    [ "$code" -lt 128 ] && break
    echo "$(date '+%F %T') the launcher died (exit code $code)"
    [ $((SECONDS - began)) -gt 10 ] && pause=2
    sleep "$((pause / 10)).$((pause % 10))" & wait $!
    pause=$((pause < 10 ? pause * 2 : 20))
done
"""
