"""Models on the Hugging Face Hub: names, downloads, and one sentence for each kind of error."""

from attention_bridge.pretrained.hub.download import local_directory as local_directory
