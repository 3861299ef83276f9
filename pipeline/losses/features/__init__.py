"""How is a student's feature compared with its teacher's?"""
