"""What is trained: data, model and score. The loop (`dst.train`) knows tasks by `Task` alone."""

from dst.tasks.task import Batch, Score, Task

__all__ = ["Batch", "Score", "Task"]
