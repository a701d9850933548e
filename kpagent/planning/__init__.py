"""Planning: the cross-entropy method, over subgoals and over actions. It takes functions, and knows no model."""
