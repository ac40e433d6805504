"""Workers: retention now, key compaction in a later issue.  Pure planners and executors."""
