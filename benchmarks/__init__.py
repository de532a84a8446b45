"""What measures and is no test: `make bench`, `make results`, `make recipes`."""
