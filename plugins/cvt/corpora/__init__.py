"""Sentences in files and in memory: readers, labelled sets, words, labels, tags and trees."""
