"""What merging real adapters keeps of them: two skills, their sum and difference, two styles."""
