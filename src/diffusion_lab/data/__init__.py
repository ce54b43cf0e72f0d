"""Pictures of faces and the holes in them: sources, crops, the decoded cache, masks and Lightning's data module."""
