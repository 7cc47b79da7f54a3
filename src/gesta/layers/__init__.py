"""What several models or plug-ins are made of; a layer that one file alone uses stays in that file."""
