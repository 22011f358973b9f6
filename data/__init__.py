"""What is asked, what is the truth, where is it from?"""
