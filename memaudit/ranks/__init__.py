"""Ranks: processes that share one job, on one machine or several.

torch.distributed's elastic launcher starts them (launch.py) and restarts them if one dies. Every
rank runs the same command. Rank 0 does the job and leads: it cuts the work that can be shared into
blocks, and each rank takes the next block from a counter in the launcher's key-value store, so that
uneven speeds cost nothing (leader.py). The others open what they need and serve (worker.py).

No process group is formed: nobody waits for a rank that is dead or slow.
"""
