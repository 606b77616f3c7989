"""What a run says about itself: terminal, `metrics.jsonl`, TensorBoard, the closing screen, figures. Sinks are hooks;
the trainer makes the records and knows none of them."""
