package policy

// Remembered returns how many answers of Visible are kept.
func (e *Engine) Remembered() int {
	e.visible.Lock()
	defer e.visible.Unlock()
	return len(e.visible.known)
}
