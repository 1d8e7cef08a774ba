"""Tools for the tests, the benchmarks and the docs: servers, stores, a browser, large runs."""
