"""Workers that give up old data and find damage: retention, reaper, reconciler, scrub.  Pure planners, thin executors."""
