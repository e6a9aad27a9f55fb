;; One hot lock (0 free, 1 held, 2 held and waited for) around a shared counter, taken $n times by each
;; thread; between two takes the thread works alone for about as long as it holds the lock.
(module
  (import "env" "memory" (memory 1 1 shared))
  (func $work (param $n i32) (result i32) (local $x i32)
    (loop $again
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 31)) (local.get $n)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $x))
  (func $lock (local $seen i32)
    (br_if 0 (i32.eqz (local.tee $seen (i32.atomic.rmw.cmpxchg (i32.const 0) (i32.const 0) (i32.const 1)))))
    (loop $contended
      (if (i32.atomic.rmw.xchg (i32.const 0) (i32.const 2))
        (then
          (drop (memory.atomic.wait32 (i32.const 0) (i32.const 2) (i64.const -1)))
          (br $contended)))))
  (func $unlock
    (if (i32.eq (i32.atomic.rmw.xchg (i32.const 0) (i32.const 0)) (i32.const 2))
      (then (drop (memory.atomic.notify (i32.const 0) (i32.const 1))))))
  (func (export "run") (param $n i32) (result i32)
    (loop $again
      (call $lock)
      (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
      (drop (call $work (i32.const 50)))
      (call $unlock)
      (drop (call $work (i32.const 50)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.load (i32.const 64))))
