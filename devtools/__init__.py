"""What the tests, the benchmarks and the docs share: servers, stores, a browser, large runs."""
