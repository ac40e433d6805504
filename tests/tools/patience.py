"""How long a test waits for what should happen at once, before it says that it never will."""

PATIENCE_S = 300.0  # far beyond what a machine that is busy with other things can need; a test that passes never waits for it
SOON_S = 50.0  # the same for what happens within this process: a mutant that hangs is found within a minute
PATIENT_STORE = {
    "hotlog.store.attempt.timeout.ms": str(int(SOON_S * 1000)),
    "hotlog.store.total.timeout.ms": str(int(SOON_S * 1000)),
}
