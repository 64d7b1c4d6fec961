"""The servers that tests of many nodes run against."""
