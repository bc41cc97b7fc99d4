"""What an answer is measured by: dialectical movement, subtlety, fluency and preference. Knows no model's training."""
