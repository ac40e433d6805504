"""One-line bugs that our tests must find, and the test that finds each."""
