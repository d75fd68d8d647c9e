"""Attention without a softmax: recurrent, chunked and in parallel, in time linear in the length."""
