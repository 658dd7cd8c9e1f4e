"""The HTTP face: OpenAI's words, status codes and event streams live here and nowhere else."""
