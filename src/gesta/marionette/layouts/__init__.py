"""Marionette in the files and folders of public data sets, for trying their readers without a download."""
