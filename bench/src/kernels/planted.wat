;; Three blocks with the same instructions in one function. The host is told of each boundary and takes the
;; thread's CPU time there, which is the truth that samples are compared with.
(module
  (import "bench" "mark" (func $mark (param i32)))
  (memory 1)
  (func (export "run") (param $a i32) (param $b i32) (param $c i32)
    (call $mark (i32.const 0))
    (if (local.get $a) (then (loop $one
      (i32.store (i32.const 0) (i32.add (i32.mul (i32.load (i32.const 0)) (i32.const 31)) (local.get $a)))
      (br_if $one (local.tee $a (i32.sub (local.get $a) (i32.const 1)))))))
    (call $mark (i32.const 1))
    (if (local.get $b) (then (loop $two
      (i32.store (i32.const 64) (i32.add (i32.mul (i32.load (i32.const 64)) (i32.const 31)) (local.get $b)))
      (br_if $two (local.tee $b (i32.sub (local.get $b) (i32.const 1)))))))
    (call $mark (i32.const 2))
    (if (local.get $c) (then (loop $three
      (i32.store (i32.const 128) (i32.add (i32.mul (i32.load (i32.const 128)) (i32.const 31)) (local.get $c)))
      (br_if $three (local.tee $c (i32.sub (local.get $c) (i32.const 1)))))))
    (call $mark (i32.const 3))))
