def test_a(cached_lab, lab):
    a = cached_lab.train_student("--set","training.epochs=10")
    print(a.stdout); print(a.stderr)
    print(*cached_lab.metrics(),sep="\n")
    assert a.status == 0
