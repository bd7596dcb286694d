"""The Open Inference Protocol over REST, with binary tensors, and what guards its sockets."""
