"""Questions made from a medical graph: rare first, several hops, with distractors that are plausible and wrong."""
